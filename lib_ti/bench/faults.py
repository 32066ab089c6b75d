"""``ti-studio bench faults``: what real jobs lose by full disks, lost pictures, no memory and kills."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lib_ti.bench.fault_cases import CASES, check, run_case
from lib_ti.bench.fault_places import broken_files, only_job
from lib_ti.bench.fault_runs import METHODS, Finding, Runner, beginning, resuming
from lib_ti.bench.faulty import Fault

_A_DAY = 86400  # seconds
_KILLS_OF_A_JOB = 4
_CHANGES = 90  # of files, in a job of ours: about so many
_KILLED = -9
_SHORT = {"saved state", "the job's, at step 7", "step 7", "in the loss of step 7", "at step 7"}

Special = Callable[[Runner, str], Finding]


def truncated_picture(runner: Runner, method: str) -> Finding:
    row = Finding("picture truncated", "before the start", method)
    with runner.folder() as (data, _):
        picture = data / "pictures" / "1.png"
        whole = picture.read_bytes()
        picture.write_bytes(whole[: len(whole) // 2])
        check(row, runner.run(data, beginning(method)), [r"1\.png cannot be read as a PNG"], 2)
        if only_job(data):
            row.wrong.append("a job is left")
        picture.write_bytes(whole)
        runner.finish(data, method, row, 0)
    return row


def picture_gone_before_resume(runner: Runner, method: str) -> Finding:
    row = Finding("picture gone", "before the resume", method)
    with runner.folder() as (data, _):
        stopped = runner.run(data, beginning(method), Fault("interrupt", step=7))
        picture = data / "pictures" / "1.png"
        whole = picture.read_bytes()
        picture.unlink()
        check(row, runner.go_on(data, method), [r"have changed since \(.*1\.png: gone\); put them back"], 2)
        picture.write_bytes(whole)
        runner.finish(data, method, row, stopped.last)
    return row


def truncated_state(runner: Runner, method: str) -> Finding:
    row = Finding("saved state truncated", "after a stop at step 7", method)
    with runner.folder() as (data, _):
        stopped = runner.run(data, beginning(method), Fault("interrupt", step=7))
        job = only_job(data)
        state = job.folder / "state.safetensors" if job else data
        state.write_bytes(state.read_bytes()[:-100])
        ran = runner.go_on(data, method)
        check(row, ran, ["the last saved state cannot be read; going on from the one before it"], 0)
        row.lost = stopped.last - ran.first + 1
        runner.compare(data, method, row)
    return row


def two_processes(runner: Runner, method: str) -> Finding:
    row = Finding("two processes", "one job", method)
    with runner.folder() as (data, _):
        first = runner.start(data, beginning(method))
        while only_job(data) is None and first.alive:
            time.sleep(0.01)
        second = runner.go_on(data, method)
        check(row, second, ["is at work in another process; wait until it ends, or stop it there"], 2)
        if first.ended().code != 0:
            row.wrong.append("the first did not end well")
        runner.compare(data, method, row)
    return row


def clock_backwards(runner: Runner, method: str) -> Finding:
    row = Finding("clock a day back", "at the resume", method)
    with runner.folder() as (data, _):
        stopped = runner.run(data, beginning(method), Fault("interrupt", step=7))
        job = only_job(data)
        ran = runner.run(data, resuming(job.id if job else ""), clock=-_A_DAY)
        check(row, ran, ["done: "], 0)
        row.lost = stopped.last - ran.first + 1
        runner.compare(data, method, row)
    return row


SPECIALS: Sequence[Special] = (
    truncated_picture,
    picture_gone_before_resume,
    truncated_state,
    two_processes,
    clock_backwards,
)


def killed(runner: Runner, method: str, kills: int, chance: random.Random) -> Finding:
    """Kill jobs ``kills`` times, by the clock and at changes of files in turn, each job a few times at most;
    let each go on to its end."""
    row, done, jobs = Finding("killed", "", method), 0, 0
    while done < kills:
        jobs += 1
        done += _kill_a_job(runner, row, min(_KILLS_OF_A_JOB, kills - done), chance)
    row.where = f"{done} times at random, of {jobs} jobs"
    return row


def _kill_a_job(runner: Runner, row: Finding, kills: int, chance: random.Random) -> int:
    """How often it was killed before it came to its end."""
    typical, reached = runner.undisturbed(row.method)[1], 0
    with runner.folder() as (data, _):
        for done in range(kills):
            fault = Fault("kill", nth=chance.randrange(1, _CHANGES)) if done % 2 else None
            at_work = runner.start(data, runner.way_on(data, row.method), fault)
            if fault is None:
                at_work.kill_after(chance.uniform(0, typical))
            ran = at_work.ended()
            row.lost = max(row.lost, reached - ran.first + 1 if reached and ran.first else 0)
            reached = ran.last or reached
            row.wrong += broken_files(data)
            if ran.code != _KILLED:
                if ran.code != 0:
                    row.wrong.append(f"ended with {ran.code}: {' '.join(ran.said[-2:])}")
                runner.compare(data, row.method, row)
                return done
        lost = row.lost
        runner.finish(data, row.method, row, reached)
        row.lost = max(lost, row.lost)
    return kills


def bench_faults(
    kills: int,
    *,
    methods: Sequence[str] = METHODS,
    short: bool = False,
    seed: int = 1,
    at_once: int = 1,
    stopped: Callable[[], bool],
    on_finding: Callable[[Finding], None],
) -> dict[str, Any]:
    """Every fault in its turn, so many ``at_once``. ``short``: one of each kind, one method."""
    methods = methods[:1] if short else methods
    rows: list[Finding] = []

    def find(make: Callable[[], Finding]) -> Finding | None:
        return None if stopped() else make()

    with (
        tempfile.TemporaryDirectory(prefix="ti-studio-faults-") as folder,
        ThreadPoolExecutor(at_once) as pool,
    ):
        runner = Runner(Path(folder))
        for found in pool.map(find, _tasks(runner, kills, methods, short, seed)):
            if found is not None:
                rows.append(found)
                on_finding(found)
    return {
        "faults": [{**asdict(row), "verdict": row.verdict} for row in rows],
        "kills": kills,
        "good": sum(not row.wrong for row in rows),
        "of": len(rows),
        "most_steps_lost": max((row.lost for row in rows), default=0),
    }


def _tasks(
    runner: Runner, kills: int, methods: Sequence[str], short: bool, seed: int
) -> Iterator[Callable[[], Finding]]:
    for case in CASES:
        if short and case.where not in _SHORT:
            continue
        for method in case.methods:
            if method in methods:
                yield partial(run_case, runner, case, method)
    for special in [truncated_state] if short else SPECIALS:
        yield partial(special, runner, methods[0])
    share = [kills // len(methods)] * len(methods)
    share[0] += kills - sum(share)
    for number, (method, count) in enumerate(zip(methods, share, strict=True)):
        if count:
            yield partial(killed, runner, method, count, random.Random(seed + number))
