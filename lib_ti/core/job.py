"""A job on disk: its folder, what it was told, and the state it can be resumed from."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import (
    checked_size,
    forget_unfinished,
    held,
    parse_json,
    read_text,
    replace,
    write_atomically,
    write_text,
    writing,
)
from lib_ti.core.names import leads_inside, suggest_name
from lib_ti.core.optimizers import OptimizerState
from lib_ti.core.text import is_text


@dataclass
class TrainState:
    """Everything a job needs to go on: nothing random is in it, that comes from seed and step."""

    step: int
    parameters: dict[str, torch.Tensor]
    optimizer: OptimizerState
    # What else goes with the job: parameter name, or WHOLE -> kind -> tensor, number or list of numbers.
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """The folder of one job."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def copies(self) -> Path:
        return self.folder / "copies"

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def _state_before_file(self) -> Path:
        return self.folder / "state.before.safetensors"

    @property
    def _settings_file(self) -> Path:
        return self.folder / "settings.json"

    @property
    def _waiting_file(self) -> Path:
        return self.folder / "waiting.json"

    @property
    def _result_file(self) -> Path:
        return self.folder / "result.json"

    @property
    def _loss_file(self) -> Path:
        return self.folder / "loss.csv"

    @property
    def _evaluation_file(self) -> Path:
        return self.folder / "eval.csv"

    @classmethod
    def reserve(cls, root: Path, name: str) -> Job:
        """A new, still empty folder under ``root``: the job has its id, and nobody else gets it."""
        stem = time.strftime("%Y%m%d-%H%M%S-") + suggest_name(name)
        with writing(root / stem):
            for number in range(1, 1000):
                folder = root / (stem if number == 1 else f"{stem}-{number}")
                try:
                    folder.mkdir(parents=True)
                except FileExistsError:
                    continue
                return cls(folder)
        raise BadInput(f"a thousand jobs called {stem} exist in {root}; remove some.")

    def begin(self, record: Mapping[str, Any]) -> None:
        """Write down what the job was told: from now on it exists."""
        write_text(self._settings_file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def wait(self, record: Mapping[str, Any]) -> None:
        """Write down that the job waits for its turn, and for what: also where the program ends, it waits."""
        told = {"since": time.time_ns(), **record}
        write_text(self._waiting_file, json.dumps(told, indent=2, ensure_ascii=False) + "\n")

    def waiting(self) -> dict[str, Any]:
        """What the job waits to do. Raises BadInput where that cannot be read any more."""
        return _read_json(self._waiting_file)

    @contextlib.contextmanager
    def waiting_alone(self) -> Iterator[None]:
        """The waiting job is this program's. Raises BadInput where it is another's."""
        with held(self._waiting_file) as ours:
            if not ours:
                raise BadInput(f"job {self.id} waits in another process.")
            yield

    def stop_waiting(self) -> None:
        """Its turn has come, or nobody wants it any more."""
        self._waiting_file.unlink(missing_ok=True)

    @classmethod
    def waiting_in(cls, root: Path) -> list[Job]:
        """The jobs under ``root`` that wait, those first that wait longest."""
        found = {}
        for path in root.glob("*/waiting.json"):
            job = cls(path.parent)
            with contextlib.suppress(BadInput):
                since = job.waiting().get("since")
                found[job] = since if isinstance(since, int) else 0
        return sorted(found, key=lambda job: (found[job], job.id))

    def discard(self) -> None:
        """Take back a reservation that came to nothing; a job that began stays."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    @classmethod
    def open(cls, root: Path, job: str) -> Job:
        """The job of that id under ``root``. Raises BadInput where there is none."""
        known = cls.known(root)
        if job not in known:
            there = f"there are {', '.join(known[-5:])}" if known else "there are none yet"
            raise BadInput(f"no job {job!r} in {root}; {there}.")
        return cls(root / job)

    @property
    def began(self) -> bool:
        """Whether it was told what to do: a reservation was not."""
        return self._settings_file.exists()

    @classmethod
    def known(cls, root: Path) -> list[str]:
        """The ids of the jobs under ``root``, the oldest first."""
        ids = (path.parent.name for path in root.glob("*/settings.json"))
        return sorted(job for job in ids if is_text(job))

    def settings(self) -> dict[str, Any]:
        """What the job was told when it began. Raises BadInput where that cannot be read any more."""
        return _read_json(self._settings_file)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else may work on the job inside. Raises BadInput where somebody does."""
        with held(self._settings_file) as ours:
            if not ours:
                raise BadInput(
                    f"job {self.id} is at work in another process; wait until it ends, or stop it there."
                )
            yield

    def clear_up(self) -> str | None:
        """After a kill or a crash: delete what is half written; go back to the state before the last where
        that one cannot be read any more, and say so. For who is ``alone`` with the job."""
        for folder in {self.folder, *(path.parent for path in self.folder.rglob("*"))}:
            forget_unfinished(folder)
        before, said = self._state_before_file, None
        if not before.exists():
            return None
        try:
            if self.load_state() is not None:
                return None
        except BadInput:
            step = _read_state(before).step
            said = f"the last saved state cannot be read; going on from the one before it, of step {step}"
        replace(before, self._state_file)
        return said

    def save_state(self, state: TrainState) -> None:
        """Replace the saved state, whole or not at all, and keep the one before. Numbers are written as
        JSON: Python reads the same float back that it wrote."""
        values: dict[str, Any] = {f"parameter/{name}": value for name, value in state.parameters.items()}
        for kind, named in (("optimizer", state.optimizer), ("beside", state.beside)):
            values |= {f"{kind}/{a}/{b}": value for a, inner in named.items() for b, value in inner.items()}
        tensors = {key: v.detach().cpu().contiguous() for key, v in values.items() if torch.is_tensor(v)}
        numbers = {key: v for key, v in values.items() if not torch.is_tensor(v)}
        metadata = {"step": str(state.step), "numbers": json.dumps(numbers)}

        def write(path: Path) -> None:
            path.write_bytes(save(tensors, metadata))
            if self._state_file.exists():
                replace(self._state_file, self._state_before_file)

        write_atomically(self._state_file, write)

    def load_state(self) -> TrainState | None:
        """The saved state; None before the first save. Raises BadInput for a file that is not one."""
        return _read_state(self._state_file) if self._state_file.exists() else None

    def append_losses(self, rows: Iterable[tuple[int, float, float]]) -> None:
        """Add rows of (step, loss, learning rate) to ``loss.csv``."""
        _append(self._loss_file, _LOSS_HEADER, rows)

    def losses(self) -> list[tuple[int, float, float]]:
        """The rows of ``loss.csv``; a last line cut short by a kill is left out."""
        return [(int(step), float(loss), float(rate)) for step, loss, rate in _rows(self._loss_file, 3)]

    def append_evaluations(self, rows: Iterable[tuple[int, float]]) -> None:
        """Add rows of (step, loss of the fixed batch) to ``eval.csv``."""
        _append(self._evaluation_file, _EVALUATION_HEADER, rows)

    def evaluations(self) -> list[tuple[int, float]]:
        """The rows of ``eval.csv``; a last line cut short by a kill is left out."""
        return [(int(step), float(loss)) for step, loss in _rows(self._evaluation_file, 2)]

    def forget_losses_after(self, step: int) -> None:
        """Drop the rows, of evaluations too, that a resumed job will write again."""
        _write(self._loss_file, _LOSS_HEADER, [row for row in self.losses() if row[0] <= step])
        if self._evaluation_file.exists():
            kept = [row for row in self.evaluations() if row[0] <= step]
            _write(self._evaluation_file, _EVALUATION_HEADER, kept)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """How the job ended, for people and programs."""
        write_text(self._result_file, json.dumps(result, indent=2, ensure_ascii=False) + "\n")

    def result(self) -> dict[str, Any] | None:
        """How the job ended; None for one that runs, that was killed, or of which that cannot be read."""
        if not self._result_file.is_file():
            return None
        try:
            return _read_json(self._result_file)
        except BadInput:
            return None

    def previews(self) -> dict[int, list[Path]]:
        """Step -> the pictures drawn then, in the order of the steps."""
        found: dict[int, list[Path]] = {}
        for path in sorted(self.samples.glob("step-*-*.png")):
            told = _PREVIEW.fullmatch(path.name)
            if told and path.is_file() and leads_inside(path, self.folder):
                found.setdefault(int(told[1]), []).append(path)
        return found


def _read_state(path: Path) -> TrainState:
    """Raises BadInput for a file that is not a saved state, or whose numbers are none."""
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata()
            if (count := len(file.keys())) > limits.TENSORS:
                raise ValueError(f"it has {count} tensors, at most {limits.TENSORS} are read")
            if not _STEP.fullmatch(told["step"]):
                raise ValueError(f"its step is {told['step'][:20]!r}")
            state = TrainState(int(told["step"]), {}, {})
            values = parse_json(told.get("numbers", "{}"), limits.HEADER)
            # Copies: they would keep the file mapped, and Windows lets nobody replace one that is.
            values |= {key: file.get_tensor(key).clone() for key in file.keys()}
        nested = {"optimizer": state.optimizer, "beside": state.beside}
        for key, value in values.items():
            kind, _, rest = key.partition("/")
            if kind == "parameter":
                state.parameters[rest] = value
            else:
                name, _, inner = rest.rpartition("/")
                nested[kind].setdefault(name, {})[inner] = value
        if not all(bool(torch.isfinite(value).all()) for value in state.parameters.values()):
            raise ValueError("numbers in it are not finite")
    except (
        OSError,
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise BadInput(
            f"{path} is not a saved state ({error!s:.200}); start the job anew, with --weights from one "
            "of its copies if there are any."
        ) from error
    return state


_LOSS_HEADER = ("step", "loss", "learning_rate")
_EVALUATION_HEADER = ("step", "loss")
_STEP = re.compile(r"[0-9]{1,9}")
_PREVIEW = re.compile(rf"step-({_STEP.pattern})-[\w.-]{{1,60}}\.png")
_NUMBER = r"-?(?:[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-][0-9]{1,3})?|inf|nan)"
_WHOLE = {columns: re.compile(_STEP.pattern + f",{_NUMBER}" * (columns - 1) + r"\n") for columns in (2, 3)}


def _line(row: Iterable[float]) -> str:
    step, *values = row
    return ",".join([str(step), *(f"{value:.6g}" for value in values)]) + "\n"


def _write(path: Path, header: Sequence[str], rows: Iterable[Iterable[float]]) -> None:
    write_text(path, ",".join(header) + "\n" + "".join(map(_line, rows)))


def _append(path: Path, header: Sequence[str], rows: Iterable[Iterable[float]]) -> None:
    if not path.exists():
        _write(path, header, ())
    with writing(path), path.open("a", newline="", encoding="utf-8") as file:
        file.writelines(map(_line, rows))


def _rows(path: Path, columns: int) -> list[list[str]]:
    """The lines below the header, up to the first that a kill or a power cut has left in pieces."""
    if not path.exists():
        return []
    checked_size(path, limits.LOSSES)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[1:]
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); remove the job's folder.") from error
    whole = takewhile(lambda line: _WHOLE[columns].fullmatch(line), lines)
    return [line.rstrip("\n").split(",") for line in whole]


T = TypeVar("T")


def recorded(record: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """What a job's settings.json says under ``key``. Raises BadInput where that is none of ``kind``."""
    told = record.get(key)
    if not isinstance(told, kind):
        raise BadInput(f"a job's settings.json does not tell its {key}; remove the job's folder.")
    return told


def _read_json(path: Path) -> dict[str, Any]:
    try:
        told = parse_json(read_text(path, limits.JSON))
    except (BadInput, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}); remove the job's folder.") from error
    if not isinstance(told, dict):
        raise BadInput(f"{path} holds no settings; remove the job's folder.")
    return told
