"""What the command line costs before it does anything: processor time of its help and its version."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from lib_ti.core.errors import JobFailed

# As typed -> seconds of processor time that it may take.
FORMS: Mapping[str, float] = {"--help": 0.5, "--version": 0.5, "train --help": 1.0}


def bench_startup(runs: int) -> dict[str, Any]:
    """The median of ``runs`` runs of each form, seconds of processor time (user and system), in new
    processes of ``python -m lib_ti.cli``. Raises JobFailed where one fails."""
    return {"runs": runs, "seconds": {form: round(_median(form, runs), 3) for form in FORMS}}


def _median(form: str, runs: int) -> float:
    return statistics.median(_seconds(form) for _ in range(runs))


def _seconds(form: str) -> float:
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "lib_ti.cli", *form.split()], stdout=subprocess.DEVNULL, check=False
    )
    after = os.times()
    if done.returncode:
        raise JobFailed(f"ti-studio {form} ended with {done.returncode}.")
    return after.children_user - before.children_user + after.children_system - before.children_system
