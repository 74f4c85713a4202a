"""The service under load, as a process of its own."""
