"""Tells whether times are compared with stored ones in a session.

Every measured session asks, also those that store no times, so nothing of what compares them is
imported here.
"""

from __future__ import annotations

import pytest

from pytest_perfguard.options import option


def under_xdist(config: pytest.Config) -> bool:
    """Return whether several processes share the machine, in one of them or in their controller."""
    return hasattr(config, "workerinput") or bool(config.getoption("dist", "no") != "no")


def times_are_compared(config: pytest.Config) -> bool:
    """Return whether times are compared with stored ones in this session."""
    mode = option(config, "time")
    return mode == "force" or (mode == "auto" and not under_xdist(config))


def why_not_compared(config: pytest.Config) -> str:
    """Return why times are not compared with stored ones though they should be; else nothing."""
    if times_are_compared(config):
        return ""
    if option(config, "time") == "off":
        return "times are not compared with stored ones: perfguard_time is off"
    return (
        "times are not compared with stored ones under xdist, where processes share the cores: "
        "run without -n, or with --perfguard-time=force"
    )
