"""A job: the settings every method shares, its folder, and its state on disk."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib_ti.core.errors import BadInput
from lib_ti.core.files import write_atomically, write_text
from lib_ti.core.settings import option

JOBS = Path(".ti-studio") / "jobs"  # a dot folder: WebUIs never serve those over HTTP


@dataclass(frozen=True)
class TrainSettings:
    """What every training method is told."""

    images: str = option("", "Folder with the training pictures.", group="data")
    steps: int = option(600, "Optimizer steps in all.", group="length", low=1, high=1_000_000)
    learning_rate: str = option(
        "0.01:300, 0.002",
        "A rate, or stages as rate:last step, e.g. 0.005:100, 1e-3:1000, 1e-4.",
        group="learning",
    )
    batch_size: int = option(
        1, "Pictures that go through the model together.", group="learning", low=1, high=256
    )
    accumulation: int = option(
        4,
        "Batches whose gradients make one step: a larger batch without its memory.",
        group="learning",
        low=1,
        high=256,
    )
    latents: str = option(
        "sampled",
        "sampled draws from the VAE's distribution at every step, mean takes its middle.",
        group="learning",
        choices=("sampled", "mean"),
    )
    weighting: str = option(
        "x0",
        "x0 measures the error of the clean picture the model has in mind, none that of the noise.",
        group="learning",
        choices=("x0", "none"),
    )
    seed: int = option(1, "Settles everything random of the job.", group="learning", low=0, high=2**32 - 1)
    width: int = option(
        0,
        "Width pictures are cropped to; 0: the model's own size.",
        group="data",
        low=0,
        high=4096,
        unit="pixels",
    )
    height: int = option(
        0,
        "Height pictures are cropped to; 0: the model's own size.",
        group="data",
        low=0,
        high=4096,
        unit="pixels",
    )
    flip: bool = option(False, "Show every second picture mirrored, at random.", group="data")
    shuffle_tags: bool = option(False, "Shuffle the comma-separated parts of a caption.", group="data")
    drop_tags: float = option(0.0, "Share of those parts left out at random.", group="data", low=0, high=1)
    word_regex: str = option(
        "", "Which words of a file name are its caption; empty: all of it.", group="data"
    )
    word_join: str = option(" ", "What joins the words that the regex finds.", group="data")
    clip_skip: int = option(
        1, "Take the text encoder's answer this many layers before its end.", group="learning", low=1, high=12
    )
    save_every: int = option(
        50,
        "Steps between saved states a job can resume from.",
        group="saving",
        low=1,
        high=1_000_000,
        unit="steps",
    )
    copy_every: int = option(
        0,
        "Steps between copies of the result in the job's folder; 0: none.",
        group="saving",
        low=0,
        high=1_000_000,
        unit="steps",
    )
    preview_every: int = option(
        0, "Steps between preview pictures; 0: none.", group="previews", low=0, high=1_000_000, unit="steps"
    )
    preview_prompt: str = option(
        "", "Prompt of the previews; empty: the first line of the template.", group="previews"
    )
    preview_negative: str = option("", "Negative prompt of the previews.", group="previews")
    preview_count: int = option(4, "Pictures in a preview.", group="previews", low=1, high=64)
    preview_steps: int = option(20, "Sampling steps of a preview.", group="previews", low=1, high=1000)
    preview_cfg: float = option(
        5.0, "Classifier-free guidance scale of a preview.", group="previews", low=1, high=50
    )
    preview_seed: int = option(
        1, "Seed of a preview's first picture; the others follow.", group="previews", low=0, high=2**32 - 1
    )


@dataclass
class TrainState:
    """Everything a job needs to go on: nothing random is in it, that comes from seed and step."""

    step: int
    parameters: dict[str, torch.Tensor]
    optimizer: dict[str, dict[str, torch.Tensor]]  # parameter name -> its optimizer tensors


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
    def _loss_file(self) -> Path:
        return self.folder / "loss.csv"

    @classmethod
    def create(cls, data: Path, name: str, settings: Mapping[str, Any]) -> Job:
        """A new job's folder under ``data``, with its settings written down."""
        stem = time.strftime("%Y%m%d-%H%M%S-") + name
        for number in range(1, 1000):
            folder = data / JOBS / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            write_text(folder / "settings.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
            return cls(folder)
        raise BadInput(f"a thousand jobs called {stem} exist in {data / JOBS}; remove some.")

    @classmethod
    def open(cls, data: Path, job: str) -> Job:
        """The job of that id under ``data``, or in that folder. Raises BadInput where there is none."""
        folder = data / JOBS / job if Path(job).name == job else Path(job)
        if not (folder / "settings.json").is_file():
            known = sorted(p.parent.name for p in (data / JOBS).glob("*/settings.json"))
            there = f"there are {', '.join(known[-5:])}" if known else "there are none yet"
            raise BadInput(f"no job {job!r} under {data / JOBS}; {there}.")
        return cls(folder)

    def settings(self) -> dict[str, Any]:
        """The settings the job was started with."""
        return json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))

    def save_state(self, state: TrainState) -> None:
        """Replace the saved state, whole or not at all."""
        tensors = {f"parameter/{name}": value for name, value in state.parameters.items()}
        for name, slots in state.optimizer.items():
            tensors |= {f"optimizer/{name}/{slot}": value for slot, value in slots.items()}
        on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {"step": str(state.step)}
        write_atomically(self._state_file, lambda path: save_file(on_cpu, path, metadata))

    def load_state(self) -> TrainState | None:
        """The saved state; None before the first save. Raises BadInput for a file that is not one."""
        if not self._state_file.exists():
            return None
        state = TrainState(0, {}, {})
        try:
            with safe_open(self._state_file, "pt") as file:
                state.step = int(file.metadata()["step"])
                for key in file.keys():
                    kind, name, *slot = key.split("/")
                    if kind == "parameter":
                        state.parameters[name] = file.get_tensor(key)
                    else:
                        state.optimizer.setdefault(name, {})[slot[0]] = file.get_tensor(key)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{self._state_file} is not a saved state ({error}); start the job anew."
            ) from error
        return state

    def append_losses(self, rows: Iterable[tuple[int, float, float]]) -> None:
        """Add rows of (step, loss, learning rate) to ``loss.csv``."""
        new = not self._loss_file.exists()
        with self._loss_file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "loss", "learning_rate"])
            writer.writerows((step, f"{loss:.6g}", f"{rate:.6g}") for step, loss, rate in rows)

    def losses(self) -> list[tuple[int, float, float]]:
        """The rows of ``loss.csv``; a last line cut short by a kill is left out."""
        if not self._loss_file.exists():
            return []
        with self._loss_file.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))[1:]
        return [(int(line[0]), float(line[1]), float(line[2])) for line in lines if len(line) == 3]

    def forget_losses_after(self, step: int) -> None:
        """Drop the rows a resumed job will write again."""
        kept = [row for row in self.losses() if row[0] <= step]
        lines = ["step,loss,learning_rate"] + [f"{s},{loss:.6g},{rate:.6g}" for s, loss, rate in kept]
        write_text(self._loss_file, "".join(line + "\n" for line in lines))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """How the job ended, for people and programs."""
        write_text(self.folder / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
