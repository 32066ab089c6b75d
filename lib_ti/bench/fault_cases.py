"""The faults that are done to jobs, one by one: where each strikes, and what must be said and left of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib_ti.bench.fault_places import broken_files, left_behind
from lib_ti.bench.fault_runs import METHODS, Finding, Ran, Runner, beginning
from lib_ti.bench.faulty import Fault

_NO_ROOM = "could not be written: the disk has no room left; free some"
_READ_ONLY = "is read-only, or not this user's; allow writing there"
_GOES_ON = "resuming job .* (goes on from there|begins it anew)"
_STATE, _COPIES, _PREVIEWS = r"/\.state\.safetensors\..*\.tmp$", r"/copies/.*\.tmp$", r"/samples/.*\.tmp$"
_RESULTS, _LATENTS = r"/(embeddings|loras)/.*\.tmp$", r"/latents/.*/.*\.tmp$"


@dataclass(frozen=True)
class Case:
    """A fault in a job, after which the job is resumed, or begun again, to its end.

    ``code``: how the process must end. ``says``: patterns, each of which a line must match.
    """

    fault: str
    where: str
    inject: Fault
    says: Sequence[str]
    code: int = 1
    methods: Sequence[str] = ("ti",)


def _full(where: str, file: str, *says: str, code: int = 1, nth: int = 1, methods: Sequence[str]) -> Case:
    inject = Fault("fill the disk", file=file, nth=nth)
    return Case("disk full", where, inject, says or (_NO_ROOM, _GOES_ON), code, methods)


def _memory(action: str, methods: Sequence[str]) -> Case:
    inject = Fault("run out of memory" if action == "CUDA" else "run out of CPU memory", step=7)
    says = ("to fit into memory: checkpointing is on", "memory ran out; going on from step 6")
    where = "step 7" if action == "CUDA" else "in step 7"
    return Case(f"out of memory, {action}'s error", where, inject, says, 0, methods)


CASES = (
    _full("settings.json, at the start", r"/\.settings\.json\..*\.tmp$", _NO_ROOM, methods=["ti"]),
    _full("a picture's latents", _LATENTS, "encoded pictures are not kept", _NO_ROOM, methods=["ti"]),
    _full("first saved state", _STATE, _NO_ROOM, "resuming job .* begins it anew", methods=["ti"]),
    _full("saved state", _STATE, nth=3, methods=METHODS),
    _full("a copy", _COPIES, nth=3, methods=METHODS),
    Case("disk full", "loss.csv", Fault("refuse", file=r"/loss\.csv$", nth=3), (_NO_ROOM, _GOES_ON)),
    _full(
        "a preview", _PREVIEWS, "the preview of step 6 was skipped: .*no room left", _NO_ROOM, _GOES_ON,
        methods=["ti"],
    ),
    _full("the trained file", _RESULTS, methods=METHODS),
    _full(
        "result.json", r"/\.result\.json\..*\.tmp$", "warning: .*result.json could not be written", code=0,
        methods=["ti"],
    ),
    Case(
        "folder read-only", "the job's, at step 7", Fault("forbid", step=7, target=".ti-studio/jobs/*"),
        (_READ_ONLY, _GOES_ON),
    ),
    Case(
        "folder read-only", "where the trained file goes, at step 7",
        Fault("forbid", step=7, target="embeddings"), (_READ_ONLY, "saved up to step 12"),
    ),
    Case(
        "picture gone", "at step 7", Fault("delete", step=7, target="pictures/1.png"),
        ("done: ",), code=0,
    ),
    Case(
        "picture gone", "between the start and its encoding",
        Fault("delete", file=r"pictures/1\.png$", nth=3, reads=True, target="pictures/1.png"),
        (r"1\.png is gone; put it back",), code=2,
    ),
    _memory("CUDA", METHODS),
    _memory("CPU", ["ti"]),
    Case(
        "NaN", "in the loss of step 7", Fault("spoil the loss", step=7),
        ("went back to step 6, the last good one. Try a lower", "saved up to step 6"), methods=METHODS,
    ),
    Case(
        "NaN", "in the vectors, at step 7", Fault("spoil the vectors", step=7),
        ("went back to step 6, the last good one. Try a lower", "saved up to step 6"), methods=METHODS,
    ),
    Case("Ctrl-C", "at step 7", Fault("interrupt", step=7), ("stopped at step 7; go on with",), 130),
    Case("Ctrl-C twice", "in step 7", Fault("interrupt twice", step=7), ("saved up to step 6",), 130),
    Case("SIGTERM", "in step 7", Fault("terminate", step=7), ("stopped at step 7; go on with",), 130),
)  # fmt: skip


def run_case(runner: Runner, case: Case, method: str) -> Finding:
    """The fault, what was said and left, and the way on."""
    row, inject = Finding(case.fault, case.where, method), case.inject
    with runner.folder(small=inject.action == "fill the disk") as (data, is_disk):
        if inject.action == "refuse" or (inject.action == "fill the disk" and not is_disk):
            inject = replace(inject, action="refuse")
            row.where += " (error injected)"
        picture = (data / "pictures" / "1.png").read_bytes()
        if inject.action == "forbid":
            (data / "embeddings").mkdir()
        ran = runner.run(data, beginning(method), inject)
        check(row, ran, case.says, case.code)
        row.wrong += [*broken_files(data), *(f"left behind: {name}" for name in left_behind(data))]
        _repair(data, picture)
        if ran.code == 0:
            runner.compare(data, method, row)
        else:
            runner.finish(data, method, row, ran.last)
    return row


def check(row: Finding, ran: Ran, says: Sequence[str], code: int) -> None:
    """Whether it ended as it should, and said what it should in sentences."""
    lines = [ran.line(pattern) for pattern in says]
    row.said = "; ".join(dict.fromkeys(filter(None, lines)))
    missing = [pattern for pattern, line in zip(says, lines, strict=True) if line is None]
    if ran.code != code:
        row.wrong.append(f"ended with {ran.code}, expected {code}")
    if missing or ran.line(r"Traceback|\(a bug"):
        row.wrong.append(f"said {' | '.join(ran.said[-4:])!r}, expected {missing}")


def _repair(data: Path, picture: bytes) -> None:
    (data / "ballast").unlink(missing_ok=True)
    (data / "pictures" / "1.png").write_bytes(picture)
    for path in data.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
