"""Network files: those of every trainer are read, sd-scripts' layout is written.

What a file is, is decided by its content, never by its name; every key of it is used or reported.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.text import as_text
from lib_ti.formats.content import check_names, content_of, not_of_ours
from lib_ti.formats.family import Family
from lib_ti.formats.pickles import read_torch_pickle
from lib_ti.formats.quantised import refuse_packed
from lib_ti.formats.safetensors_file import (
    read_metadata,
    read_shapes,
    read_tensors,
    serialized,
    write_tensors,
)
from lib_ti.networks.adapter_config import adapter_config, add_alphas
from lib_ti.networks.algebra import Tensors, Update, truncated
from lib_ti.networks.family import family_by
from lib_ti.networks.foreign import SUPPORTED, algorithm_of, model_of
from lib_ti.networks.keys import name_of, parse_key
from lib_ti.networks.reading import beside_factors, read_update

log = logging.getLogger(__name__)

_BUNDLED = re.compile(r"bundle_emb\.(.+?)\..+")
_OTHER_KINDS = (
    (
        r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.|state_dict$",
        "a checkpoint",
    ),
    (r"(emb_params|string_to_param|clip_[lgh])$", "an embedding"),
    (r"(down_blocks|up_blocks|text_model|encoder|decoder)\.", "a part of a diffusers model"),
)
_LEGACY_HASH = slice(0x100000, 0x110000)  # bytes of the file


@dataclass(frozen=True, eq=False)
class Network:
    """A file of the LoRA family. ``updates``: layer name, as sd-scripts gives it -> what changes there.

    ``left_out``: layers that are not understood -> why; ``unread``: keys that are of no use -> why, both by
    their names in the file. ``embeddings``: words that the file brings besides, to be read
    with ``formats.embedding.read_embeddings``.
    """

    name: str
    family: Family | None  # None: the file does not tell SD1 from SD2
    updates: Mapping[str, Update]
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    embeddings: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """How many the file changes, understood or not."""
        return len(self.updates) + len(self.left_out)

    def truncated(self, rank: int) -> Network:
        """A DyLoRA at that rank, at full strength."""
        if rank < 1:
            raise BadInput(f"the rank of {self.name} is {rank}; expected at least 1.")
        return replace(self, updates={name: truncated(update, rank) for name, update in self.updates.items()})


def read_network(path: Path, model: Family = "sd1") -> Network:
    """Raises BadInput where there is nothing of a network in it.

    ``model``: the family whose layer names are wanted, where the file does not tell its own.
    """
    tensors, metadata = _read_content(path)
    refuse_packed(path, tensors)
    keys = {key: found for key in tensors if (found := parse_key(key)) is not None}
    embeddings = sorted({match[1] for key in tensors if (match := _BUNDLED.fullmatch(key))})
    if other := model_of(tensors, metadata):
        raise BadInput(
            f"{path.name} is a network for {other}; those for Stable Diffusion 1.x, 2.x and SDXL are used "
            "here."
        )
    if not keys:
        raise _no_network(path, tensors)
    family = family_by(path.name, keys, {key: tensor.shape for key, tensor in tensors.items()}, metadata)
    unread = {key: _why_unread(key) for key in tensors if key not in keys and not _BUNDLED.fullmatch(key)}
    layers: dict[str, Tensors] = defaultdict(dict)
    named = [(name_of(found, family or model), found) for found in keys.values()]
    for key, (name, found) in zip(keys, named, strict=True):
        if found.suffix in layers[name]:
            unread[key] = "another key says the same of the same layer"
        layers[name].setdefault(found.suffix, tensors[key])
    add_alphas(layers, named, adapter_config(path, metadata))
    updates: dict[str, Update] = {}
    left_out: dict[str, str] = {}
    for name, parts in layers.items():
        try:
            updates[name] = read_update(_own(_with_lengths(parts)))
        except BadInput as error:
            left_out[name] = str(error).rstrip(".")
        else:
            whole = "holds whole numbers that no algorithm here reads"
            unread |= {f"{name}.{key}": whole for key in beside_factors(parts)}
    if not updates:
        name, why = next(iter(left_out.items()))
        raise BadInput(f"{path.name}: none of its {len(layers)} layers is understood; {name}: {why}.")
    for name, why in (left_out | unread).items():
        log.warning("%s: %s is left out: %s", path.name, name, why)
    return Network(as_text(path.stem), family, updates, metadata, left_out, unread, tuple(embeddings))


def _why_unread(key: str) -> str:
    algorithm = algorithm_of([key])
    return f"of {algorithm}, which is not supported" if algorithm else "no key of a network that we know"


def _read_content(path: Path) -> tuple[Tensors, dict[str, str]]:
    kind, _ = content_of(path)
    if kind == "safetensors":
        return read_tensors(path)
    if kind == "unknown":
        raise not_of_ours(path, "network file")
    content = read_torch_pickle(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path.name} holds a {type(content).__name__}; expected the tensors of a network.")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    check_names(path, tensors)
    if len(tensors) < len(content) and not tensors:
        raise _no_network(path, map(str, content))
    return tensors, {}


def _no_network(path: Path, content: Iterable[str]) -> BadInput:
    content = list(content)
    for pattern, kind in _OTHER_KINDS:
        if any(re.match(pattern, key) for key in content):
            return BadInput(f"{path.name} is {kind}; a network file (LoRA and its like) is needed here.")
    if algorithm := algorithm_of(content):
        return BadInput(
            f"{path.name} is a network of the algorithm {algorithm}, which is not supported; {SUPPORTED} are."
        )
    found = ", ".join(content[:5]) or "nothing"
    return BadInput(f"{path.name} is no network of the LoRA family that we know; it holds {found}.")


def check_network(path: Path) -> None:
    """By a safetensors file's header alone. Raises BadInput where there is nothing of a network in it."""
    shapes = read_shapes(path)
    if not any(map(parse_key, shapes)):
        raise _no_network(path, shapes)


def _with_lengths(parts: Tensors) -> Tensors:
    """PEFT's lengths are of rows, in a shape of its own."""
    lengths = parts.get("lora_magnitude_vector")
    if lengths is None or "lora_down.weight" not in parts:
        return parts
    rest = {key: tensor for key, tensor in parts.items() if key != "lora_magnitude_vector"}
    ones = (1,) * (parts["lora_down.weight"].ndim - 1)
    return {**rest, "dora_scale": lengths.reshape(-1, *ones)}


def _own(parts: Tensors) -> Tensors:
    """In memory of their own, since the file may be written over; finite."""
    for key, tensor in parts.items():
        if not torch.isfinite(tensor.float()).all():
            raise BadInput(f"{key} holds numbers that are not finite (NaN or infinite).")
    return {key: tensor.clone() for key, tensor in parts.items()}


def family_of_file(path: Path) -> Family | None:
    """By a safetensors file's header alone; None where that does not tell it. Raises BadInput."""
    if content_of(path)[0] != "safetensors":
        return None
    shapes = read_shapes(path)
    keys = {key: found for key in shapes if (found := parse_key(key)) is not None}
    metadata = read_metadata(path)
    return None if model_of(shapes, metadata) else family_by(path.name, keys, shapes, metadata)


def tensors_of(updates: Mapping[str, Update]) -> Tensors:
    """The tensors of a file with these updates, by their keys."""
    return {
        f"{name}.{suffix}": tensor
        for name, update in updates.items()
        for suffix, tensor in update.tensors().items()
    }


def write_network(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """A `.safetensors` of sd-scripts' layout, with both hashes that it puts into the metadata.

    ``metadata``: "ss_..." and "modelspec....", as ``network_metadata`` gives them and more.
    """
    write_tensors(tensors, {**metadata, **hashes(tensors, metadata)}, path)


def hashes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """By which programs find a network again: over the tensors alone, and the older one over a stretch
    of the file as it would be with the trainer's own metadata."""
    head, data = serialized(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    whole = hashlib.sha256()
    legacy, position = hashlib.sha256(), 0
    for chunk in (head, *data):
        if chunk is not head:
            whole.update(chunk)
        start, stop = (max(0, edge - position) for edge in (_LEGACY_HASH.start, _LEGACY_HASH.stop))
        legacy.update(chunk[start:stop])
        position += len(chunk)
    return {"sshs_model_hash": whole.hexdigest(), "sshs_legacy_hash": legacy.hexdigest()[:8]}


def network_metadata(
    family: Family,
    *,
    prediction: str = "eps",
    dim: int | str,
    alpha: float | str,
    args: Mapping[str, object] | None = None,
    title: str,
    module: str = "networks.lora",
) -> dict[str, str]:
    """What every network file should say of itself; ``dim`` and ``alpha`` "Dynamic" where they vary.

    ``prediction``: "eps" or "v". ``args``: what the algorithm was told besides, such as conv_dim.
    """
    v = prediction == "v"
    version, architecture = {
        "sd1": ("sd_v1", "stable-diffusion-v1"),
        "sd2": ("sd_v2_v", "stable-diffusion-v2-768-v") if v else ("sd_v2", "stable-diffusion-v2-512"),
        "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    }[family]
    metadata = {
        "ss_base_model_version": version,
        "ss_v2": str(family == "sd2"),
        "ss_output_name": title,
        "ss_network_module": module,
        "ss_network_dim": str(dim),
        "ss_network_alpha": str(alpha),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models"
        if family == "sdxl"
        else "diffusers",
        "modelspec.title": title,
        "modelspec.prediction_type": "v" if v else "epsilon",
    }
    return metadata | ({"ss_network_args": json.dumps(dict(args))} if args else {})
