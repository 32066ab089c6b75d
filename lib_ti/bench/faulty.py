"""A command in a process of its own in which something goes wrong on purpose; our code runs as it is."""

from __future__ import annotations

import errno
import os
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lib_ti.core.loop import Loop
from lib_ti.hosts.standalone import StandaloneHost

NOBODY = 65534  # the user that Unix gives no rights
_WRITES = os.O_WRONLY | os.O_RDWR

Action = Literal[
    "fill the disk",  # a small one, to its last byte
    "refuse",  # as a full disk would, all that is written from then on
    "forbid",  # writing into a folder
    "delete",
    "kill",
    "interrupt",  # Ctrl-C
    "interrupt twice",
    "terminate",
    "run out of memory",  # of the kind that CUDA has
    "run out of CPU memory",
    "spoil the loss",
    "spoil the vectors",
]


@dataclass(frozen=True)
class Fault:
    """``action`` comes when optimizer step ``step`` begins; or the ``nth`` time that a file is opened, to be
    written or with ``reads`` at all, whose path the pattern ``file`` finds; or else at the ``nth`` opening,
    renaming or removing of any file."""

    action: Action
    step: int = 0
    file: str = ""
    nth: int = 1
    reads: bool = False
    target: str = ""  # a pattern of what is forbidden or deleted, below the job's data


def run_faulty(
    arguments: Sequence[str],
    data: Path,
    fault: Fault | None,
    log: Path,
    clock: float,
    host: StandaloneHost | None,
) -> None:
    """``ti-studio ARGUMENTS`` in ``data``; what it says goes to ``log``.err, the first and the last step that
    it begins to ``log``.steps.

    ``clock``: seconds by which the computer's clock is wrong. ``host``: the model, where it is loaded.
    """
    os.chdir(data)
    made = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(log.with_suffix(".err"), made, 0o644), 2)
    _note_steps(os.open(log.with_suffix(".steps"), made, 0o644))
    if clock:
        _turn_clock(clock)
    if host is not None:
        StandaloneHost.load = lambda *_: host  # type: ignore[method-assign]
    if fault is not None:
        _install(fault)
    sys.argv = ["ti-studio", *arguments]
    try:
        runpy.run_module("lib_ti.cli", run_name="__main__")
    except SystemExit as ended:
        # A fork of a thread must not wait for the threads that only its parent has.
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def _turn_clock(by: float) -> None:
    now, written = time.time, time.strftime
    time.time = lambda: now() + by
    time.strftime = lambda form, *at: written(form, *(at or (time.localtime(now() + by),)))


def _note_steps(file: int) -> None:
    first = 0

    def note(step: int, _: Loop) -> None:
        nonlocal first
        first = first or step
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, b"%d %d" % (first, step))

    _watch_steps(note)


def _watch_steps(begins: Callable[[int, Loop], object]) -> None:
    take = Loop.take_step

    def watched(self: Loop) -> torch.Tensor:
        begins(self.step + 1, self)
        return take(self)

    Loop.take_step = watched  # type: ignore[method-assign]


def _install(fault: Fault) -> None:
    """Let it happen when its time comes, once."""
    act, count = _action(fault), 0
    pattern, data = re.compile(fault.file), f"{Path.cwd().as_posix()}/"

    def begins(step: int, loop: Loop) -> None:
        nonlocal count
        if step == fault.step and not count:
            count = 1
            act(loop)

    def audit(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        if count >= fault.nth or (fault.file and event != "open"):
            return
        if (path := _changed(event, details, fault)) is None:
            return
        name = Path(path).absolute().as_posix()
        if name.startswith(data) and pattern.search(name):
            count += 1
            if count == fault.nth:
                act(None)

    if fault.step:
        _watch_steps(begins)
    else:
        sys.addaudithook(audit)


def _changed(event: str, details: tuple[Any, ...], fault: Fault) -> Any:
    """The path of the file that Python is about to change, or to read; None where it does not."""
    if event in ("os.rename", "os.link", "os.remove"):
        return details[0]
    if event != "open" or isinstance(details[0], int):
        return None
    wanted = os.O_CREAT if fault.file else _WRITES
    return details[0] if fault.reads or details[2] & wanted else None


def _action(fault: Fault) -> Callable[[Loop | None], object]:
    """What happens; a loop is there at the beginning of a step."""
    actions: dict[Action, Callable[[Any], object]] = {
        "fill the disk": lambda _: _fill(),
        "refuse": lambda _: _refuse(),
        "forbid": lambda _: _forbid(next(Path().glob(fault.target))),
        "delete": lambda _: Path(fault.target).unlink(),
        "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
        "interrupt": lambda _: signal.raise_signal(signal.SIGINT),
        "interrupt twice": lambda _: _interrupt_twice(),
        "terminate": lambda _: signal.raise_signal(signal.SIGTERM),
        "run out of memory": lambda _: _answer_once(
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 MiB.")
        ),
        "run out of CPU memory": lambda _: _answer_once(
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 67108864 bytes")
        ),
        "spoil the loss": lambda _: _answer_once(None),
        "spoil the vectors": _spoil,
    }
    return actions[fault.action]


def _forbid(folder: Path) -> None:
    """Root may write everywhere: it becomes a user whose all the rest is."""
    folder.chmod(0o555)
    if os.geteuid() == 0:
        for path in (Path(), *Path().rglob("*")):
            if path != folder and folder not in path.parents:
                os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)


def _interrupt_twice() -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def _fill() -> None:
    """Take all the room that is left on the disk, which is a small one."""
    with Path("ballast").open("ab", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass


def _refuse() -> None:
    data = f"{Path.cwd().as_posix()}/"

    def audit(event: str, details: tuple[Any, ...]) -> None:
        if event != "open" or isinstance(details[0], int) or not details[2] & os.O_CREAT:
            return
        if Path(details[0]).absolute().as_posix().startswith(data):
            raise full

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sys.addaudithook(audit)
    raise full


@torch.no_grad()
def _spoil(loop: Loop) -> None:
    next(iter(loop.parameters.values()))[0] = float("nan")


def _answer_once(error: Exception | None) -> None:
    """The next noise prediction raises ``error``, or is not finite if that is None."""
    predict = StandaloneHost.predict_noise

    def failing(self: StandaloneHost, *arguments: Any) -> torch.Tensor:
        StandaloneHost.predict_noise = predict  # type: ignore[method-assign]
        if error is not None:
            raise error
        return predict(self, *arguments) * float("nan")

    StandaloneHost.predict_noise = failing  # type: ignore[method-assign, assignment]
