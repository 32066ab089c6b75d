"""What PEFT says of its adapters beside their tensors, which carry no alpha."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json, read_text
from lib_ti.core.regex import replace_all
from lib_ti.networks.algebra import Tensors
from lib_ti.networks.keys import Key

_PREFIXES = {
    "unet": "unet.",
    "first text encoder": "text_encoder.",
    "second text encoder": "text_encoder_2.",
}
_RANKED = ("lora_down.weight", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")  # with as many rows as the rank
_LARGEST = 1e9
_PLAIN = re.compile(r"[\w.]+")
_MOST_PATTERNS = 20  # that are regular expressions: each costs a process


def adapter_config(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """In diffusers' metadata, or in a file beside; nothing where there is none. Raises BadInput."""
    try:
        if told := metadata.get("lora_adapter_metadata"):
            config = parse_json(told)
        else:
            beside = path.with_name("adapter_config.json")
            config = parse_json(read_text(beside)) if beside.is_file() else {}
    except ValueError as error:
        raise BadInput(f"the description of the adapter {path.name} cannot be read: {error}.") from error
    return config if isinstance(config, dict) else {}


def add_alphas(
    layers: Mapping[str, Tensors], keys: Sequence[tuple[str, Key]], config: Mapping[str, Any]
) -> None:
    """Where a layer has none and the adapter's description knows it. ``keys``: each with the name of its
    layer. Raises BadInput for a description whose patterns cannot be searched with."""
    for model, prefix in _PREFIXES.items() if config else ():
        own = {key.removeprefix(prefix): value for key, value in config.items()}
        ours = [(name, key) for name, key in keys if key.model == model]
        paths = list(dict.fromkeys(key.path for _, key in ours))
        alphas, ranks = (_by_pattern(own.get(kind), paths) for kind in ("alpha_pattern", "rank_pattern"))
        for name, key in ours:
            alpha: Any = alphas.get(key.path, own.get("lora_alpha", own.get("alpha")))
            if "alpha" not in layers[name] and _is_number(alpha):
                rank = ranks.get(key.path, own.get("r"))
                _add_alpha(layers[name], key, alpha, rank, own.get("use_rslora"))


def _add_alpha(parts: Tensors, key: Key, alpha: float, told_rank: Any, by_root: object) -> None:
    if key.suffix in _RANKED and parts[key.suffix].ndim:
        rank = parts[key.suffix].shape[0]
        parts["alpha"] = torch.tensor(alpha * (rank**0.5 if by_root else 1.0))
    elif key.suffix == "lokr_w1" and "lokr_w2" in parts and _is_number(told_rank) and told_rank > 0:
        parts["scale"] = torch.tensor(alpha / told_rank)  # of two whole factors too, as PEFT does


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST


def _by_pattern(patterns: Any, paths: Sequence[str]) -> dict[str, Any]:
    """Path -> the value of the longest end of it that is named, or else of the first expression that finds
    such an end, as PEFT searches."""
    if not isinstance(patterns, dict):
        return {}
    found = {path: patterns[end] for path in paths for end in _ends(path) if end in patterns}
    searched = [pattern for pattern in patterns if not _PLAIN.fullmatch(pattern)]
    if len(searched) > _MOST_PATTERNS:
        raise BadInput(f"the adapter is described by {len(searched)} patterns; expected {_MOST_PATTERNS}.")
    for pattern in searched:
        left = replace_all(rf"^(?:.*\.)?(?:{pattern})$", "", paths)
        for path in (path for path, rest in zip(paths, left, strict=True) if not rest):
            found.setdefault(path, patterns[pattern])
    return found


def _ends(path: str) -> Iterable[str]:
    """Of a path with dots, the shortest first."""
    words = path.split(".")
    return (".".join(words[start:]) for start in reversed(range(len(words))))
