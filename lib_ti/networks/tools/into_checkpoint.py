"""Networks merged into a checkpoint, tensor by tensor."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.formats.quantised import converted, divided, is_float8, scale_for
from lib_ti.formats.streaming import HASH, TensorFile, meta, write_streamed
from lib_ti.networks.algebra import IA3, DoRA, Update, moved
from lib_ti.networks.applied import listed
from lib_ti.networks.layers import StoredLayer
from lib_ti.networks.tools.combine import Term, Watch
from lib_ti.networks.tools.stored import Checkpoint

_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}


@dataclass
class Applied:
    """What became of a network. ``left_out``: layer -> why; what the rounding leaves nothing of is among it
    when the checkpoint has been written."""

    name: str
    total: int
    left_out: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)  # layers in which numbers are others, so far

    def __str__(self) -> str:
        done = self.total - len(self.left_out)
        told = f"{self.name}: applied {done} of {self.total} modules"
        if self.left_out:
            told += f"; left out: {listed(self.left_out)}"
        return told


@dataclass(frozen=True)
class _Change:
    """What one network does to one tensor of the file; ``bias``: the tensor is a bias."""

    layer: str
    network: Applied
    update: Update
    ratio: float
    rows: slice | None
    bias: bool = False


@dataclass
class Rounding:
    """What became of the changes when they were rounded. ``types``: those of the tensors they went into."""

    types: set[torch.dtype] = field(default_factory=set)
    wanted: float = 0.0  # squared norms
    missed: float = 0.0

    @property
    def lost(self) -> float:
        """The share of what was to be added that is not there (Frobenius norm)."""
        return (self.missed / self.wanted) ** 0.5 if self.wanted else 0.0

    def note(self) -> str:
        """For a person; "" where it is of no weight."""
        coarse = [dtype for dtype in self.types if is_float8(dtype)]
        if not coarse and self.lost < _MUCH:
            return ""
        types = " and ".join(sorted(map(_name, coarse or self.types)))
        return (
            f"The rounding to {types} lost {self.lost:.0%} of what was to be added; "
            "save in a higher precision to keep it."
        )


_MUCH = 0.1


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class CheckpointMerge:
    """A checkpoint with ``terms`` added: W + the sum of ratio times each network's change of W.

    Computed in float32 on ``device`` and rounded once. ``save``: the type of every tensor that has floating
    point numbers, without scales; None: each keeps its own, and its scale where it has one. The noise
    schedule and what no network changes stay as they are.
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
        self.rounding = Rounding()
        self._seen: set[str] = set()  # tensors that are accounted for
        self._changes: dict[str, list[_Change]] = defaultdict(list)
        for term in terms:
            self.applied.append(self._plan(term))
        file = checkpoint.file
        # The name of a scale that is written again -> that of its weight.
        self._scales = {scale: weight for weight, scale in file.scales.items()} if save is None else {}
        self.plan = (
            dict(file.stored.plan)
            if save is None
            else {name: meta(entry.shape, self._dtype_of(name, entry)) for name, entry in file.plan.items()}
        )

    def _plan(self, term: Term) -> Applied:
        if term.network.family not in (None, self.checkpoint.family):
            raise BadInput(
                f"{term.network.name} was made for {term.network.family}, "
                f"{self.checkpoint.file.path.name} is {self.checkpoint.family}."
            )
        applied = Applied(term.network.name, term.network.layers, dict(term.network.left_out))
        for name, update in term.network.updates.items():
            layer = self.checkpoint.layers.get(name)
            if layer is None:
                applied.left_out[name] = "the checkpoint has no such layer"
            elif not update.fits(self.checkpoint.shape(layer)):
                applied.left_out[name] = f"does not fit {self.checkpoint.shape(layer)}"
            elif update.bias is not None and layer.bias_key not in self.checkpoint.file.plan:
                applied.left_out[name] = "changes a bias that the layer has not got"
            else:
                self._add(layer, _Change(name, applied, update, term.ratio, layer.rows))
        if len(applied.left_out) == applied.total:
            raise BadInput(
                f"nothing of {term.network.name} fits {self.checkpoint.file.path.name}, a checkpoint of "
                f"{self.checkpoint.family}: {listed(applied.left_out)}."
            )
        return applied

    def _add(self, layer: StoredLayer, change: _Change) -> None:
        self._changes[layer.key].append(change)
        if change.update.bias is not None:
            self._changes[layer.bias_key].append(replace(change, bias=True))

    def _dtype_of(self, name: str, entry: torch.Tensor) -> torch.dtype:
        # Names without a dot are of the noise schedule, of which half precision would change every step.
        if self.save is None or not entry.is_floating_point() or "." not in name:
            return entry.dtype
        return self.save

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the new checkpoint, on the CPU."""
        if name in self._scales and self._scales[name] in self._changes:
            merged = self._merged(self._scales[name])
            assert merged.scale is not None
            entry = self.plan[name]
            return merged.scale.to(entry.dtype).reshape(entry.shape).cpu()
        if name in self._changes:
            return self._merged(name).stored.cpu()
        if self.save is None:
            return self.checkpoint.file.stored.read(name)
        return converted(self.checkpoint.file.read(name), self.plan[name].dtype)

    def _merged(self, name: str) -> _Merged:
        """The tensor with its changes, as it is stored. Raises BadInput where it does not stay finite."""
        before = self.checkpoint.file.read(name).to(self.device, torch.float32)
        after = _changed(before.clone(), self._changes[name])
        dtype, scale = self.plan[name].dtype, self._scale_of(name, after)
        merged = _Merged.of(after, scale, dtype)
        if not torch.isfinite(merged.value).all() or not (scale is None or torch.isfinite(scale).all()):
            raise BadInput(f"{name} does not stay finite in {dtype}; save in bf16 or float, or merge less.")
        self._account(name, before, after, merged.value - _Merged.of(before, scale, dtype).value)
        return merged

    def _scale_of(self, name: str, weight: torch.Tensor) -> torch.Tensor | None:
        """What ``weight`` is stored with, as exact as the file's scale is; None where it has none."""
        file = self.checkpoint.file
        if self.save is not None or name not in file.scales:
            return None
        scale = scale_for(weight, file.scale(name).to(weight.device), self.plan[name].dtype)
        return scale.to(self.plan[file.scales[name]].dtype).float()

    def _account(self, name: str, before: torch.Tensor, after: torch.Tensor, rounded: torch.Tensor) -> None:
        """Keep what became of the changes of ``name``: ``rounded`` is the change that is stored."""
        wanted, dtype = after - before, self.plan[name].dtype
        if name not in self._seen:
            self.rounding.types.add(dtype)
            self.rounding.wanted += float(wanted.double().square().sum())
            self.rounding.missed += float((wanted - rounded).double().square().sum())
            self._seen.add(name)
        for change in self._changes[name]:
            network, layer = change.network, change.layer
            if _rows(rounded, change.rows).any():
                network.changed.add(layer)
                network.left_out.pop(layer, None)
            elif layer not in network.changed:
                lost = _rows(wanted, change.rows).any()
                network.left_out[layer] = (
                    f"lost in the rounding to {_name(dtype)}" if lost else "adds nothing"
                )

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
        file = self.checkpoint.file
        old = file.stored.metadata if self.save is None else file.metadata
        own = {key: value for key, value in old.items() if key != _OLD_HASH}
        return {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": _ARCHITECTURES[self.checkpoint.family],
            **own,
            "modelspec.title": title,
            "modelspec.merged_from": ", ".join(names),
            "ti_studio.merged": json.dumps(recipe, ensure_ascii=False),
            HASH: "",
        }


@dataclass(frozen=True)
class _Merged:
    """A tensor as it is stored, its scale if it has one, and the numbers that are read of it, float32."""

    stored: torch.Tensor
    scale: torch.Tensor | None
    value: torch.Tensor

    @classmethod
    def of(cls, tensor: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> _Merged:
        if scale is None:
            stored = tensor.to(dtype)
            return cls(stored, None, stored.float())
        stored = divided(tensor, scale, dtype)
        return cls(stored, scale, stored.float() * scale)


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
