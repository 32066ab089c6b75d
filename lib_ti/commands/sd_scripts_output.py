"""Where sd-scripts puts its files, and what it calls them."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lib_ti.core.files import write_atomically
from lib_ti.formats.embedding import read_embedding, write_pt, write_safetensors
from lib_ti.formats.pickles import write_torch_pickle
from lib_ti.formats.safetensors_file import read_tensors
from lib_ti.job_run import Copied, Event
from lib_ti.methods.kind import Product


def save_embedding(made: Path, path: Path) -> None:
    """As sd-scripts names and stores it; as there, what was at ``path`` is replaced."""
    trained = read_embedding(made)
    metadata = trained.metadata if trained.name == path.stem else {**trained.metadata, "token": trained.name}
    embedding = replace(trained, name=path.stem, metadata=metadata)
    (write_safetensors if path.suffix == ".safetensors" else write_pt)(embedding, path)
    print(f"saved: {path}; a prompt calls it by the file's name, {path.stem}", file=sys.stderr)


def save_network(made: Path, path: Path) -> None:
    """Where sd-scripts puts it; of a pickle the tensors alone, as there."""
    if path.suffix == ".safetensors":
        write_atomically(path, partial(shutil.copyfile, made))
    else:
        write_torch_pickle(read_tensors(made)[0], path)
    print(f"saved: {path}", file=sys.stderr)


@dataclass
class Copies:
    """Puts each copy that a job keeps beside ``output`` too: NAME-000002 of an epoch, or NAME-step00000100.

    ``epochs``: how many lie between two; 0: they are counted in steps. ``keep``: how many stay; 0: all.
    """

    output: Path
    epochs: int = 0
    keep: int = 0
    written: list[Path] = field(default_factory=list)
    every: int = 0  # steps between two: the step of the first

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Copied):
            return
        self.every = self.every or event.step
        if self.epochs and event.step >= event.steps:
            return  # as there, what the last epoch ends with is the file itself
        number = f"step{event.step:08d}"
        if self.epochs:
            number = f"{event.step // self.every * self.epochs:06d}"
        path = self.output.with_name(f"{self.output.stem}-{number}{self.output.suffix}")
        product, made = next(iter(event.files.items()))
        _save(product, made, path)
        self.written = [*(one for one in self.written if one != path), path]
        for old in self.written[: -self.keep] if self.keep else ():
            old.unlink(missing_ok=True)
        self.written = self.written[-self.keep :]


def _save(product: Product, made: Path, path: Path) -> None:
    (save_embedding if product.is_embedding else save_network)(made, path)
