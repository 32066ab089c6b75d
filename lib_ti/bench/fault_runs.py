"""Short real jobs for the fault bench, each in a process of its own, compared with undisturbed ones."""

from __future__ import annotations

import itertools
import multiprocessing
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib_ti.bench.fault_places import (
    broken_files,
    contents,
    draw_pictures,
    left_behind,
    only_job,
    small_disk,
)
from lib_ti.bench.faulty import Fault, run_faulty
from lib_ti.hosts.base import SampleRequest
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.report import plot_losses

STEPS, SAVE_EVERY = 12, 4
_JOB = (
    f"train --json --device cpu --images pictures --name zqx-word --steps {STEPS} --save-every {SAVE_EVERY} "
    f"--copy-every {SAVE_EVERY} --preview-every 6 --preview-count 1 --preview-steps 1 --batch-size 1 "
    "--accumulation 1 --flip --shuffle-tags --latents sampled --method"
).split()
# What a small network needs beside what all methods take.
_OPTIONS = {"ti": (), "dreamartist": (), "lora": ("--rank", "2")}
METHODS = tuple(_OPTIONS)
_PATIENCE = 600  # seconds
_PROGRESS = re.compile(r"step/s[,\]]|s/step[,\]]|\?step/s")  # of a bar that moves


@dataclass(frozen=True)
class Ran:
    """How a process ended. ``first``, ``last``: the steps it began, 0 if none."""

    code: int | None
    said: list[str]
    first: int
    last: int
    seconds: float

    def line(self, pattern: str) -> str | None:
        """The line it said that matches."""
        return next((line for line in self.said if re.search(pattern, line)), None)


@dataclass
class Finding:
    """A line of the table. ``lost``: steps that had to be done again; ``wrong``: what is not as promised."""

    fault: str
    where: str
    method: str
    said: str = ""
    lost: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "; ".join(self.wrong) or "good"

    def as_text(self) -> str:
        said = re.sub(r"\d{8}-\d{6}-zqx-word", "JOB", self.said)
        cells = (self.fault, self.where, self.method, said, str(self.lost), self.verdict)
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


class AtWork:
    """A command in its process, which prints into files beside ``log``."""

    def __init__(self, process: Any, log: Path) -> None:
        self.process, self.log, self.since = process, log, time.monotonic()

    @property
    def alive(self) -> bool:
        return bool(self.process.is_alive())

    def kill_after(self, seconds: float) -> None:
        self.process.join(seconds)
        self.process.kill()

    def ended(self) -> Ran:
        self.process.join(_PATIENCE)
        if self.alive:
            self.kill_after(0)
            self.process.join()
        said, steps = (_text(self.log.with_suffix(ending)) for ending in (".err", ".steps"))
        lines = (line.rpartition("\r")[2].strip() for line in said.splitlines())
        told = [line for line in lines if line and not _PROGRESS.search(line)]
        first, last = map(int, steps.split()) if steps else (0, 0)
        return Ran(self.process.exitcode, told, first, last, time.monotonic() - self.since)


class Runner:
    """Starts jobs in processes of their own, in folders below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.chmod(0o755)  # another user's processes work below it, too
        forks = sys.platform == "linux"
        # A fork has everything imported and the model loaded; elsewhere each process does that for itself.
        self.context: Any = multiprocessing.get_context("fork" if forks else "spawn")
        self.host = _warm_host(root) if forks else None
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.whole: dict[str, tuple[Mapping[str, Any], float]] = {}  # what an undisturbed job makes, seconds

    @contextmanager
    def folder(self, *, small: bool = False) -> Iterator[tuple[Path, bool]]:
        """A new one with pictures, and whether it is a small disk of its own, where one is wanted."""
        data = self.root / f"{next(self.numbers):03d}"
        data.mkdir()
        with small_disk(data) if small else nullcontext(False) as is_disk:
            draw_pictures(data)
            yield data, is_disk

    def start(
        self, data: Path, arguments: Sequence[str], fault: Fault | None = None, clock: float = 0
    ) -> AtWork:
        log = self.root / f"{next(self.numbers):03d}.log"
        told = (arguments, data, fault, log, clock, self.host)
        process = self.context.Process(target=run_faulty, args=told)
        process.start()
        return AtWork(process, log)

    def run(self, data: Path, arguments: Sequence[str], fault: Fault | None = None, clock: float = 0) -> Ran:
        return self.start(data, arguments, fault, clock).ended()

    def way_on(self, data: Path, method: str) -> list[str]:
        """Resume the job there, or begin where none has begun."""
        job = only_job(data)
        return resuming(job.id) if job else beginning(method)

    def go_on(self, data: Path, method: str) -> Ran:
        return self.run(data, self.way_on(data, method))

    def undisturbed(self, method: str) -> tuple[Mapping[str, Any], float]:
        """What the job makes where nothing goes wrong, and the seconds it takes."""
        with self.lock:
            if method not in self.whole:
                with self.folder() as (data, _):
                    ran = self.run(data, beginning(method))
                    if ran.code != 0:
                        raise RuntimeError(f"the job fails where nothing is wrong: {ran.said[-3:]}")
                    self.whole[method] = contents(data), ran.seconds
            return self.whole[method]

    def finish(self, data: Path, method: str, row: Finding, reached: int) -> None:
        """Go on to the end; note what was lost, and what is not as if nothing had happened."""
        ran = self.go_on(data, method)
        if ran.code != 0:
            row.wrong.append(f"going on ended with {ran.code}: {' '.join(ran.said[-1:])}")
            return
        row.lost = max(0, reached - (ran.first or STEPS + 1) + 1)
        self.compare(data, method, row)

    def compare(self, data: Path, method: str, row: Finding) -> None:
        expected, made = self.undisturbed(method)[0], contents(data)
        names = {*expected, *(name for name in made if "/copies/" not in name)}  # a stop makes one more copy
        differ = sorted(name for name in names if expected.get(name) != made.get(name))
        if differ:
            row.wrong.append(f"not the same: {', '.join(differ[:4])}")
        if left := left_behind(data):
            row.wrong.append(f"left behind: {', '.join(left[:4])}")
        if row.lost > SAVE_EVERY:
            row.wrong.append(f"lost {row.lost} steps")
        row.wrong += broken_files(data)


def _warm_host(root: Path) -> StandaloneHost:
    """The model, with all imported that a job imports on its way; it has learned nothing, for a process
    whose gradients have threads must not be forked."""
    torch.set_num_threads(1)
    host = StandaloneHost.load("builtin", "cpu")
    host.sample(SampleRequest(["a star"], [1], steps=1, width=64, height=64))
    plot_losses([(1, 1.0, 1.0)], root / "warm.png")
    return host


def beginning(method: str) -> list[str]:
    return [*_JOB, method, *_OPTIONS[method]]


def resuming(job: str) -> list[str]:
    return ["train", "--json", "--device", "cpu", "--resume", job]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
