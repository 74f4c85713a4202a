"""Renderers: functions from records to strings. Only the plugin and the CLI write them anywhere."""
