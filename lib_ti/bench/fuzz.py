"""Mutated files and texts by the thousand: no reader may crash, hang, take memory or carry anything out."""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lib_ti.bench.fuzz_child import MAX_SECONDS, mutated
from lib_ti.bench.fuzz_targets import Target
from lib_ti.bench.memory import RESET_PEAK
from lib_ti.core.errors import BadInput, StudioError
from lib_ti.core.nearest import nearest

OURS = "lib_ti.bench.fuzz_targets"
_SILENCE = 120.0  # seconds without a word, of a process that waits for what never comes


@dataclass
class Tally:
    """What became of a reader's inputs."""

    name: str
    inputs: int = 0
    past: int = 0
    refused: int = 0
    accepted: int = 0
    slowest_ms: float = 0.0
    peak_mb: float = 0.0
    findings: dict[int, str] = field(default_factory=dict)  # number of the input -> what is wrong

    def add(self, told: dict[str, Any]) -> None:
        self.inputs += 1
        self.past += told["past"]
        self.refused += told["outcome"] == "refused"
        self.accepted += told["outcome"] == "accepted"
        self.slowest_ms = max(self.slowest_ms, told["ms"])
        self.peak_mb = max(self.peak_mb, told["mb"])
        if told["finding"]:
            self.findings[told["index"]] = told["finding"]

    def as_json(self) -> dict[str, Any]:
        findings = {str(index): finding for index, finding in self.findings.items()}
        return {**vars(self), "findings": findings}


def bench_fuzz(
    inputs: int,
    seed: int,
    *,
    readers: Sequence[str] = (),
    keep: Path | None = None,
    module: str = OURS,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Tally]:
    """``inputs`` mutations for each of ``readers``, by default all. ``keep``: a folder for the inputs with
    which something is wrong; ``module``: of the targets. Raises BadInput where the system cannot watch a
    process."""
    if not RESET_PEAK.exists():
        raise BadInput("the fuzz needs Linux, which tells what a process takes; run it there.")
    targets: dict[str, Target] = importlib.import_module(module).TARGETS
    if strange := sorted(set(readers) - targets.keys()):
        raise BadInput(f"there is no reader {strange[0]!r}{nearest(strange[0], targets)}.")
    tallies = {name: Tally(name) for name in targets if name in readers or not readers}
    left = [(name, 0, inputs) for name in tallies]
    shared = Path("/dev/shm")  # in memory: a disk takes longer to write a file than a reader to read it
    at = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ti-studio-fuzz-", dir=at) as folder:
        while left and not stopped():
            _run([module, str(seed), folder], left, tallies, stopped)
    if keep is not None:
        _keep(keep, seed, targets, tallies)
    return list(tallies.values())


def _run(
    task: Sequence[str],
    left: list[tuple[str, int, int]],
    tallies: dict[str, Tally],
    stopped: Callable[[], bool],
) -> None:
    """A process reads what is left of each reader's inputs, until all is done or it dies of one."""
    with _child(task, left) as (process, lines):
        while left and not stopped():
            name, first, end = left[0]
            try:
                line = lines.get(timeout=_SILENCE)
            except queue.Empty:
                line, silent = None, True
            else:
                silent = False
            if line is not None:
                told = json.loads(line)
                tallies[told["name"]].add(told)
            else:
                why = f"no answer in {_SILENCE:g} s" if silent else _death(process.wait())
                lost = {"past": True, "outcome": "died", "ms": 0.0, "mb": 0.0}
                tallies[name].add({**lost, "index": first, "finding": why})
            left[0] = (name, first + 1, end)
            if first + 1 == end:
                left.pop(0)
            if line is None:
                return


@contextmanager
def _child(
    task: Sequence[str], left: Sequence[tuple[str, int, int]]
) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str | None]]]:
    """The process and its lines, with None at their end. Raises StudioError where it cannot begin."""
    stretches = [f"{name}|{first}|{end}" for name, first, end in left]
    command = [sys.executable, "-m", "lib_ti.bench.fuzz_child", *task, *stretches]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()
    stderr: list[str] = []
    assert process.stdout is not None and process.stderr is not None
    threads = [
        threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=stderr.extend, args=(process.stderr,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait()
        for thread in threads:
            thread.join()
        process.stdout.close()
        process.stderr.close()
    if process.returncode == 1:  # an exception outside of any reader
        raise StudioError(f"the process that reads ended: {''.join(stderr)[-2000:]}")


def _pass_on(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _death(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"longer than {MAX_SECONDS:g} s"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _keep(folder: Path, seed: int, targets: dict[str, Target], tallies: dict[str, Tally]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tally in tallies.items():
        target = targets[name]
        with tempfile.TemporaryDirectory() as lent:
            seeds = target.seeds(Path(lent))
        for index in tally.findings:
            file = target.names[index % len(target.names)]
            label = name.replace(", ", "-").replace(" ", "-")
            (folder / f"{label}-{index}-{file}").write_bytes(mutated(target, seeds, seed, index))


def table(tallies: Sequence[Tally]) -> str:
    """In Markdown."""
    head = ("reader", "inputs", "past the header", "refused", "accepted", "slowest", "peak", "findings")
    rows = [
        (
            tally.name,
            f"{tally.inputs:,}",
            f"{tally.past / max(1, tally.inputs):.0%}",
            f"{tally.refused:,}",
            f"{tally.accepted:,}",
            f"{tally.slowest_ms:.0f} ms",
            f"{tally.peak_mb:.0f} MB",
            str(len(tally.findings)),
        )
        for tally in tallies
    ]
    lines = [head, ("---", *("--:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
