"""Checkpoint files of the original layout, and the layers in them that networks change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from lib_ti.core.errors import BadInput
from lib_ti.formats.checkpoint import checkpoint_family
from lib_ti.formats.family import Family
from lib_ti.formats.prediction import evidence_in_file, settled
from lib_ti.formats.quantised import WeightFile, open_weights
from lib_ti.networks.layers import StoredLayer, find_stored_layers


@dataclass(frozen=True)
class Checkpoint:
    """A whole model in one file; its tensors are read when they are asked for."""

    file: WeightFile
    family: Family

    @cached_property
    def layers(self) -> Mapping[str, StoredLayer]:
        """By the names that network files give them."""
        return find_stored_layers({key: entry.shape for key, entry in self.file.plan.items()}, self.family)

    def shape(self, layer: StoredLayer) -> tuple[int, ...]:
        """Of the layer's own weight, also where that is a part of a fused one."""
        rows, *others = self.file.plan[layer.key].shape
        if layer.rows is not None:
            rows = layer.rows.stop - layer.rows.start
        return rows, *others

    @property
    def prediction(self) -> Literal["eps", "v"]:
        """By the file alone, without its ``.yaml``. Raises BadInput where it is neither."""
        evidence = evidence_in_file(self.file.plan, self.file.metadata)
        return settled(self.file.path.stem, self.family, evidence).prediction


def open_checkpoint(path: Path) -> Checkpoint:
    """Raises BadInput where ``path`` is no checkpoint of SD1, SD2 or SDXL, or one of packed weights."""
    file = open_weights(path)
    family = checkpoint_family(path.name, {key: entry.shape for key, entry in file.plan.items()})
    if family is None:
        raise BadInput(
            f"{path.name} is no checkpoint of SD 1.x, 2.x or SDXL in the original layout; it begins with "
            f"{', '.join(list(file.plan)[:3]) or 'nothing'}."
        )
    return Checkpoint(file, family)
