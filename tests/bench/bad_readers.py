"""Readers that do what none may: for the fuzz to see."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from lib_ti.bench.fuzz_targets import Target
from lib_ti.core.errors import BadInput


def _harm(do: Callable[[Path], object]) -> Callable[[Path], object]:
    """At every input but the valid one."""
    return lambda path: do(path) if path.read_bytes() != b"good" else None


def _crash(path: Path) -> None:
    raise KeyError("x")


def _refuse(path: Path) -> None:
    raise BadInput("this is refused, as it should be.")


def _hang(path: Path) -> None:
    while True:
        pass


_DONE: dict[str, Callable[[Path], object]] = {
    "refuses": _refuse,
    "crashes": _crash,
    "hangs": _hang,
    "dies": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
    "takes memory": lambda path: len(b"x" * 400_000_000),
    "takes too much": lambda path: len(b"x" * (64 << 30)),
    "evaluates": lambda path: eval("1 + 1"),  # noqa: S307
    "starts a program": lambda path: os.system("true"),
    "writes": lambda path: path.with_name("written").write_text("x"),
    "removes": lambda path: path.unlink(),
    "is slow, and idle": lambda path: time.sleep(0.01),
}


def _changed(data: bytes, rng: random.Random) -> bytes:
    return b"bad"


TARGETS = {
    name: Target(name, lambda folder: [b"good"], _changed, _harm(do), lambda data: True, ("x",))
    for name, do in _DONE.items()
}
