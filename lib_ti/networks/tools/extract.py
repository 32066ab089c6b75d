"""The difference of two checkpoints as a LoRA. Source: cloneofsimo/lora, discussion 56."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_ti.core.errors import BadInput
from lib_ti.formats.checkpoint import text_encoders
from lib_ti.formats.ldm import UNET
from lib_ti.networks.algebra import LowRank
from lib_ti.networks.layers import StoredLayer, trained_layers
from lib_ti.networks.svd import clamped, svd_of
from lib_ti.networks.tools.combine import Updates, Watch
from lib_ti.networks.tools.stored import Checkpoint


@dataclass(frozen=True)
class Extraction:
    """``rank``; ``conv_rank`` of 3x3 convolutions, 0: they and the other layers that C3Lier adds are left
    out. ``min_diff``: text encoders of which no number differs by more count as the same. ``clamp``: as
    ``svd.clamped``."""

    rank: int
    conv_rank: int = 0
    min_diff: float = 0.01
    clamp: float = 1.0


@dataclass(frozen=True)
class Extracted:
    """``equal``: layers in which the checkpoints do not differ; ``text_difference``: the largest of any
    number in the text encoders; ``error``: of each update, the share of the difference that it misses
    (Frobenius norm); ``uncovered``: tensors beside these layers in which the models differ too, such as
    biases and norms."""

    updates: Updates
    equal: Sequence[str]
    text_difference: float
    with_text: bool
    error: Mapping[str, float]
    uncovered: Sequence[str]


def extract(
    original: Checkpoint,
    tuned: Checkpoint,
    extraction: Extraction,
    device: torch.device | None = None,
    watch: Watch = lambda done, of: None,
) -> Extracted:
    """The network that makes ``original`` nearest to ``tuned``. Differences are taken in float32.

    Raises BadInput where the two are of different plans, or the same.
    """
    layers = _common_layers(original, tuned, conv=extraction.conv_rank > 0)
    text = [name for name, layer in layers.items() if layer.part != "unet"]
    difference = max((float(d.abs().max()) for _, d in _differences(original, tuned, text)), default=0.0)
    with_text = difference > extraction.min_diff
    names = [name for name, layer in layers.items() if with_text or layer.part == "unet"]
    updates: Updates = {}
    error: dict[str, float] = {}
    equal = []
    for done, (name, matrix) in enumerate(_differences(original, tuned, names), 1):
        if matrix.any():
            rank = extraction.conv_rank if layers[name].kind == "conv" else extraction.rank
            updates[name], error[name] = _nearest(matrix.to(device), rank, extraction.clamp)
        else:
            equal.append(name)
        watch(done, len(names))
    if not updates:
        raise BadInput(
            f"{original.file.path.name} and {tuned.file.path.name} do not differ in any layer that a LoRA "
            f"changes; in the text encoder they do by {difference:.2g} at most (min-diff "
            f"{extraction.min_diff:g})."
        )
    texts = text_encoders(original.file.plan, original.family) if with_text else ()
    uncovered = _differing(original, tuned, (UNET, *texts), {layers[name].key for name in names})
    return Extracted(updates, equal, difference, with_text, error, list(uncovered))


def _differing(
    original: Checkpoint, tuned: Checkpoint, prefixes: tuple[str, ...], besides: Collection[str]
) -> Iterator[str]:
    """Tensors whose names begin so that differ, or are in one of the two alone, ``besides`` those."""
    before, after = original.file, tuned.file
    for key in dict.fromkeys((*before.plan, *after.plan)):
        if key.startswith(prefixes) and key not in besides:
            there = (
                key in before.plan and key in after.plan and before.plan[key].shape == after.plan[key].shape
            )
            if not there or not torch.equal(before.read(key).float(), after.read(key).float()):
                yield key


def _common_layers(original: Checkpoint, tuned: Checkpoint, *, conv: bool) -> Mapping[str, StoredLayer]:
    one, other = original.file.path.name, tuned.file.path.name
    if original.family != tuned.family:
        raise BadInput(f"{one} is {original.family} and {other} {tuned.family}; expected one family.")
    layers = trained_layers(original.layers, conv=conv)
    for name, layer in layers.items():
        if name not in tuned.layers:
            raise BadInput(f"{other} lacks the layer {name} that {one} has.")
        shapes = original.shape(layer), tuned.shape(tuned.layers[name])
        if shapes[0] != shapes[1]:
            raise BadInput(f"{name} is {shapes[0]} in {one} and {shapes[1]} in {other}.")
    return layers


def _differences(
    original: Checkpoint, tuned: Checkpoint, names: Sequence[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """tuned - original of each layer, in its shape, float32."""
    readers = [_reader(checkpoint) for checkpoint in (original, tuned)]
    for name in names:
        before, after = (read(name) for read in readers)
        yield name, after - before


def _reader(checkpoint: Checkpoint) -> Callable[[str], torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}

    def read(name: str) -> torch.Tensor:
        layer = checkpoint.layers[name]
        if layer.key not in kept:  # the three parts of a fused weight follow one another
            kept.clear()
            kept[layer.key] = checkpoint.file.read(layer.key).float()
        return kept[layer.key] if layer.rows is None else kept[layer.key][layer.rows]

    return read


def _nearest(difference: torch.Tensor, rank: int, clamp: float) -> tuple[LowRank, float]:
    matrix = difference.flatten(1)
    up, down = clamped(*svd_of(matrix).factors(min(rank, *matrix.shape)), clamp)
    error = float((matrix - (up @ down).to(matrix.device)).norm() / matrix.norm())
    kernel = difference.shape[1:]
    update = LowRank(
        up=up.cpu().reshape(*up.shape, *(1 for _ in kernel[1:])),
        down=down.cpu().reshape(-1, *kernel),
        alpha=float(len(down)),
    )
    return update, error
