"""What a reader makes of a file, in a process of its own that is measured: sentence, seconds, megabytes.

The readers are those that are fuzzed, by the same names. Started as ``python -m tests.cases.reading``, it
answers a line of JSON, the reader's name and the file's, with another.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import logging
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """``sentence``: with which the file was refused, "" where it was read."""

    sentence: str
    crash: str
    seconds: float  # of the processor
    megabytes: float  # above the idle process


def read_by(reader: str, path: Path) -> Outcome:
    """Raises AssertionError where the process ended."""
    process = _process()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([reader, str(path)]) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        _process.cache_clear()
        raise AssertionError(f"the process that read {path.name} ended with {process.wait()}")
    return Outcome(**json.loads(line))


def refused(reader: str, path: Path, *, seconds: float = 3.0, megabytes: float = 256.0) -> str:
    """The sentence of a file that is to be refused in little time and memory."""
    outcome = read_by(reader, path)
    assert not outcome.crash, outcome.crash
    assert outcome.sentence, f"{reader} took {path.name}"
    assert outcome.seconds < seconds
    assert outcome.megabytes < megabytes
    assert len(outcome.sentence) < 600
    return outcome.sentence


@lru_cache(maxsize=1)
def _process() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cases.reading"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def _main() -> None:
    from lib_ti.bench.fuzz_targets import TARGETS
    from lib_ti.bench.memory import RESET_PEAK, status_bytes
    from lib_ti.core.errors import StudioError

    logging.disable()
    warnings.simplefilter("ignore")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
    for line in sys.stdin:
        reader, path = json.loads(line)
        told = {"sentence": "", "crash": ""}
        gc.collect()
        trim(0)  # what the last reader freed must go back, or this one would seem to need nothing
        if RESET_PEAK.exists():
            RESET_PEAK.write_text("5")
        idle, start = status_bytes("VmRSS"), time.process_time()
        try:
            TARGETS[reader].read(Path(path))
        except StudioError as error:
            told["sentence"] = str(error)
        except Exception as error:
            told["crash"] = f"{type(error).__name__}: {error!s:.200}"
        seconds, peak = time.process_time() - start, (status_bytes("VmHWM") - idle) / 1e6
        sys.stdout.write(json.dumps({**told, "seconds": seconds, "megabytes": peak}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
