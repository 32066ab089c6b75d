"""The process that reads mutated files: watched from outside, and watching what Python does from inside.

Started by ``fuzz`` with the module of the targets, the seed, a folder of its own and the stretches to read,
as ``name|first|end``. It writes a line of JSON for every input. An input that takes longer than it may ends
the process: the kernel sends a signal then, whatever code is running.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from lib_ti.bench.fuzz_targets import Target
from lib_ti.bench.memory import RESET_PEAK, status_bytes
from lib_ti.core import regex
from lib_ti.core.errors import StudioError

MAX_SECONDS = 1.0  # of the processor, for one input
MAX_MEGABYTES = 256.0  # above the idle process
_MORE_ADDRESSES = 4 << 30  # bytes; what asks for more gets a MemoryError

# What no reader has a reason for. Python tells of everything that runs code, starts a process, writes or
# calls another computer; see its table of audit events.
_FORBIDDEN = (
    *("os.", "subprocess.", "shutil.", "socket.", "pty.", "pickle.", "ctypes.", "webbrowser.", "urllib."),
    *("exec", "compile", "import", "code.__new__", "tempfile.", "sys.unraisablehook"),
)
_HARMLESS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk"}
_REGEX = Path(regex.__file__)
_LIBRARIES = {"encodings", "PIL", "torch", "numpy", "safetensors", "tomllib", "tomli", "zipfile"}


class Watch:
    """Python's audit hook: notes the first forbidden thing that happens while ``armed``."""

    def __init__(self) -> None:
        self.armed = False
        self.seen = ""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.armed and not self.seen and _is_forbidden(event, args) and not _searches():
            self.seen = f"{event} {args!s:.200}"


def _is_forbidden(event: str, args: tuple[Any, ...]) -> bool:
    if event == "open":
        _, mode, flags = args
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        return bool((flags or 0) & writes) or any(sign in (mode or "") for sign in "wax+")
    if event == "import":
        return args[0].partition(".")[0] not in _LIBRARIES
    if event in ("exec", "compile"):  # of a library's own module, at its first use
        file = getattr(args[0], "co_filename", "") if event == "exec" else args[1]
        return not Path(str(file)).is_absolute() and not _imports()
    return event not in _HARMLESS and event.startswith(_FORBIDDEN)


def _imports() -> bool:
    """Whether a module is being imported now, which must have been allowed then."""
    return any(code.co_name == "_find_and_load" and "importlib" in code.co_filename for code in _at_work())


def _searches() -> bool:
    """Whether a stranger's pattern is searched with, for which there is a process apart."""
    return any(Path(code.co_filename) == _REGEX for code in _at_work())


def _at_work() -> Iterator[CodeType]:
    """The functions that are being called, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def mutated(target: Target, seeds: Sequence[bytes], seed: int, index: int) -> bytes:
    """The input of that number: the same for the same seed."""
    rng = random.Random(f"{seed}|{target.name}|{index}")
    return target.mutate(rng.choice(seeds), rng)


def main(module: str, seed: int, folder: Path, stretches: Sequence[str]) -> None:
    targets: dict[str, Target] = importlib.import_module(module).TARGETS
    logging.disable()
    warnings.simplefilter("ignore")
    watch = Watch()
    for stretch in stretches:
        name, first, end = stretch.split("|")
        target = targets[name]
        seeds = target.seeds(folder)
        for number, data in enumerate(seeds):  # valid, and every module is imported by then
            path = folder / target.names[0]
            path.write_bytes(data)
            try:
                target.read(path)
            except StudioError as error:
                raise AssertionError(f"seed {number} of {name} is refused: {error}") from error
        gc.collect()
        idle = status_bytes("VmRSS")
        limit = status_bytes("VmSize") + _MORE_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for index in range(int(first), int(end)):
            data = mutated(target, seeds, seed, index)
            path = folder / target.names[index % len(target.names)]
            path.unlink(missing_ok=True)  # the last one may still be mapped
            path.write_bytes(data)
            told = {
                "name": name,
                "index": index,
                "past": _past(target, data),
                **_read(target, path, watch, idle),
            }
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


def _past(target: Target, data: bytes) -> bool:
    try:
        return target.past(data)
    except Exception:  # whatever a parser says of what is no such file
        return False


def _read(target: Target, path: Path, watch: Watch, idle: int) -> dict[str, Any]:
    """What the reader makes of the file: accepted or refused, milliseconds, megabytes, what is wrong."""
    RESET_PEAK.write_text("5")
    outcome, finding, watch.seen = "accepted", "", ""
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    start = time.process_time()
    watch.armed = True
    try:
        target.read(path)
    except StudioError as error:
        outcome = "refused"
        if not str(error).strip():
            finding = "refused without a sentence"
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        outcome, finding = "crashed", f"{type(error).__name__} at {place}: {error!s:.100}"
    watch.armed = False
    milliseconds = 1000 * (time.process_time() - start)
    signal.setitimer(signal.ITIMER_PROF, 0)
    megabytes = (status_bytes("VmHWM") - idle) / 1e6
    if watch.seen:
        finding = f"it did what no reader does: {watch.seen}"
    elif megabytes > MAX_MEGABYTES:
        finding = finding or f"{megabytes:.0f} MB above the idle process"
    return {"outcome": outcome, "ms": milliseconds, "mb": megabytes, "finding": finding}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
