"""Runs inside a real WebUI, before the probe's other scripts: what our extension loads, and "Reload UI"."""

from __future__ import annotations

import sys
import time

LOADED = sorted(name for name in sys.modules if name.split(".")[0] == "lib_ti")
STARTED = time.time()  # of this round: scripts run again at "Reload UI"

import probe_tools  # noqa: E402
from modules import shared  # noqa: E402

probe_tools.LOADED = getattr(probe_tools, "LOADED", LOADED)


@probe_tools.check
def loaded_at_start() -> list[str]:
    return probe_tools.LOADED


@probe_tools.check
def started() -> float:
    return STARTED


@probe_tools.check
def reload_ui() -> None:
    shared.state.request_restart()
