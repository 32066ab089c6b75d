"""Networks merged into a checkpoint, tensor by tensor."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.formats.streaming import HASH, TensorFile, meta, write_streamed
from lib_ti.networks.algebra import IA3, DoRA, Update, moved
from lib_ti.networks.layers import StoredLayer
from lib_ti.networks.tools.combine import Term, Watch
from lib_ti.networks.tools.stored import Checkpoint

_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}


@dataclass(frozen=True)
class _Change:
    """What one network does to one tensor of the file; ``bias``: the tensor is a bias."""

    update: Update
    ratio: float
    rows: slice | None
    bias: bool = False


@dataclass
class Applied:
    """What became of a network. ``left_out``: layer -> why."""

    name: str
    total: int
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        done = self.total - len(self.left_out)
        told = f"{self.name}: applied {done} of {self.total} modules"
        if self.left_out:
            some = ", ".join(f"{name} ({why})" for name, why in list(self.left_out.items())[:3])
            told += f"; left out: {some}{', ...' if len(self.left_out) > 3 else ''}"
        return told


class CheckpointMerge:
    """A checkpoint with ``terms`` added: W + the sum of ratio times each network's change of W.

    Computed in float32 on ``device`` and rounded once. ``save``: the type of every tensor that has floating
    point numbers; None: each keeps its own. The noise schedule and what no network changes stay as they are.
    Raises BadInput where nothing of a network fits the checkpoint.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        terms: Sequence[Term],
        save: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.checkpoint, self.terms, self.save = checkpoint, terms, save
        self.device = device or torch.device("cpu")
        self.applied: list[Applied] = []
        self._changes: dict[str, list[_Change]] = defaultdict(list)
        for term in terms:
            self.applied.append(self._plan(term))
        self.plan = {
            name: meta(entry.shape, self._dtype_of(name, entry))
            for name, entry in checkpoint.file.plan.items()
        }

    def _plan(self, term: Term) -> Applied:
        if term.network.family not in (None, self.checkpoint.family):
            raise BadInput(
                f"{term.network.name} was made for {term.network.family}, "
                f"{self.checkpoint.file.path.name} is {self.checkpoint.family}."
            )
        applied = Applied(term.network.name, len(term.network.updates))
        for name, update in term.network.updates.items():
            layer = self.checkpoint.layers.get(name)
            if layer is None:
                applied.left_out[name] = "the checkpoint has no such layer"
            elif not update.fits(self.checkpoint.shape(layer)):
                applied.left_out[name] = f"does not fit {self.checkpoint.shape(layer)}"
            elif update.bias is not None and layer.bias_key not in self.checkpoint.file.plan:
                applied.left_out[name] = "changes a bias that the layer has not got"
            else:
                self._add(layer, update, term.ratio)
        if len(applied.left_out) == applied.total:
            why = next(iter(applied.left_out.values()))
            raise BadInput(
                f"nothing of {term.network.name} fits {self.checkpoint.file.path.name}, a checkpoint of "
                f"{self.checkpoint.family}: {next(iter(applied.left_out))}: {why}."
            )
        return applied

    def _add(self, layer: StoredLayer, update: Update, ratio: float) -> None:
        self._changes[layer.key].append(_Change(update, ratio, layer.rows))
        if update.bias is not None:
            self._changes[layer.bias_key].append(_Change(update, ratio, layer.rows, bias=True))

    def _dtype_of(self, name: str, entry: torch.Tensor) -> torch.dtype:
        # Names without a dot are of the noise schedule, of which half precision would change every step.
        if self.save is None or not entry.is_floating_point() or "." not in name:
            return entry.dtype
        return self.save

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the new checkpoint, on the CPU."""
        tensor, dtype = self.checkpoint.file.read(name), self.plan[name].dtype
        if name not in self._changes:
            return tensor.to(dtype)
        changed = _changed(tensor.to(self.device, torch.float32), self._changes[name]).to(dtype)
        # torch cannot say it of numbers of 8 bits.
        if not torch.isfinite(changed if changed.element_size() > 1 else changed.float()).all():
            raise BadInput(f"{name} does not stay finite in {dtype}; save in bf16 or float, or merge less.")
        return changed.cpu()

    def write(self, path: Path, watch: Watch = lambda done, of: None) -> None:
        """Raises BadInput for a name that ends neither in .safetensors nor in .ckpt and its like."""
        done = 0

        def read(name: str) -> torch.Tensor:
            nonlocal done
            done += 1
            watch(done, len(self.plan))
            return self.read(name)

        write_streamed(path, self.plan, read, self.metadata(path.stem))

    def metadata(self, title: str) -> dict[str, str]:
        """The checkpoint's own, and what was merged into it by the modelspec standard; the hash is filled
        in when the file is written."""
        names = [self.checkpoint.file.path.stem, *(term.network.name for term in self.terms)]
        recipe = [{"network": term.network.name, "ratio": term.ratio} for term in self.terms]
        own = {key: value for key, value in self.checkpoint.file.metadata.items() if key != _OLD_HASH}
        return {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": _ARCHITECTURES[self.checkpoint.family],
            **own,
            "modelspec.title": title,
            "modelspec.merged_from": ", ".join(names),
            "ti_studio.merged": json.dumps(recipe, ensure_ascii=False),
            HASH: "",
        }


_OLD_HASH = "sshs_model_hash"  # of the tensors as they were


def _changed(weight: torch.Tensor, changes: Sequence[_Change]) -> torch.Tensor:
    """``weight``, float32, with all changes added; it may be written over."""
    # What depends on the weight must see the original one, also after another network's change.
    aside = len(changes) > 1 and any(isinstance(change.update, IA3 | DoRA) for change in changes)
    original = weight.clone() if aside else weight
    for change in changes:
        part, before = _rows(weight, change.rows), _rows(original, change.rows)
        update = moved(change.update, weight.device)
        added = update.bias if change.bias else update.delta(before)
        part.add_(added.float(), alpha=change.ratio)  # type: ignore[union-attr]
    return weight


def _rows(tensor: torch.Tensor, rows: slice | None) -> torch.Tensor:
    return tensor if rows is None else tensor[rows]


def unmerged(file: TensorFile) -> Iterable[str]:
    """Averages of the weights (EMA), which programs do not use; no network is merged into them."""
    return (name for name in file.plan if name.startswith("model_ema.") and file.plan[name].ndim > 0)


def tell(applied: Sequence[Applied]) -> Mapping[str, object]:
    """As JSON values."""
    return {
        each.name: {
            "applied": each.total - len(each.left_out),
            "modules": each.total,
            "left_out": dict(each.left_out),
        }
        for each in applied
    }
