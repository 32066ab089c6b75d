"""What a model says of its own shape, in a .yaml or a config.json: checked before a module is built after it.

Modules are built without weights, but each takes a millisecond, and a library that loads weights makes room
for those that are missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import checked_size, parse_json, read_text
from lib_ti.formats.content import METADATA, safetensors_header

_UNITS = {"model_channels", "ch"}  # which others are multiplied by
_LAYERS = {"num_hidden_layers", "layers_per_block", "num_res_blocks", "down_blocks", "up_blocks"}
_DEPTHS = ("transformer_layers_per_block", "transformer_depth", "transformer_depth_middle")
_SPARE = 1.5  # what a description may say more than its files hold: some names are of constants


class _Plain(yaml.SafeLoader):
    """Without aliases, by which few lines stand for a billion."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases, which no description of a model needs")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Raises BadInput for more than a description has, yaml.YAMLError, and what its parser raises besides."""
    loader = _Plain(read_text(path, limits.DESCRIPTION))
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def check_numbers(told: Any, key: str = "", depth: int = 0) -> None:
    """Raises ValueError for a number, a list or a depth that no model has."""
    if depth > limits.DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(told, Mapping):
        for name, inner in told.items():
            check_numbers(inner, str(name), depth + 1)
    elif isinstance(told, list | tuple):
        if len(told) > limits.NUMBERS:
            raise ValueError(f"{key[:40]} has {len(told)} entries, expected at most {limits.NUMBERS}")
        for inner in told:
            check_numbers(inner, key, depth + 1)
    elif isinstance(told, int | float):
        most = limits.LAYERS if key in _LAYERS or key in _DEPTHS else limits.SIDE
        if not abs(told) <= most:
            raise ValueError(f"{key[:40]} is {told!s:.20}, expected at most {most}")
    elif key in _UNITS:
        raise ValueError(f"{key} is no number")


def check_blocks(config: Mapping[str, Any]) -> None:
    """``config``: diffusers' of a U-Net or a VAE. Raises ValueError for more blocks than any has together."""
    levels = len(config.get("block_out_channels", ()))
    layers, depths = _largest(config.get("layers_per_block")), (_largest(config.get(key)) for key in _DEPTHS)
    blocks = levels * (layers + 1) * max(1, *depths)
    if blocks > limits.BLOCKS:
        raise ValueError(f"it describes {blocks} blocks, expected at most {limits.BLOCKS}")


def _largest(told: Any) -> int:
    if isinstance(told, list | tuple):
        return max(map(_largest, told), default=0)
    return told if isinstance(told, int) else 0


def check_part(folder: Path, kind: Any) -> None:
    """``folder``: of one of the models of a diffusers folder, ``kind``: its class. Raises BadInput where its
    config.json is none, or describes more than its files hold."""
    described = folder / "config.json"
    try:
        config = parse_json(read_text(described, limits.DESCRIPTION))
        if not isinstance(config, dict):
            raise ValueError("it names no settings")
        check_numbers(config)
        check_blocks(config)
        with torch.device("meta"):  # accelerate would make each tensor and then let it go
            module = _built(kind, config)
    except (
        BadInput,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise BadInput(
            f"{folder.parent} is no complete diffusers folder: {described} does not describe a model that we "
            f"know ({error!s:.200})."
        ) from error
    headers = [safetensors_header(path)[0] for path in folder.glob("*.safetensors")]
    shapes = (entry["shape"] for header in headers for name, entry in header.items() if name != METADATA)
    check_fits(module, shapes, described)


def _built(kind: Any, config: dict[str, Any]) -> nn.Module:
    if hasattr(kind, "from_config"):
        diffusers: nn.Module = kind.from_config(config)
        return diffusers
    transformers: nn.Module = kind(kind.config_class.from_dict(config))
    return transformers


def check_fits(module: nn.Module, shapes: Iterable[Sequence[int]], told_by: Path) -> None:
    """``module``: on the meta device; ``shapes``: of the tensors that are to fill it. Raises BadInput where
    there are too few of them to."""
    numbers = sum(parameter.numel() for parameter in module.parameters())
    there = sum(map(math.prod, shapes))
    if numbers > _SPARE * there:
        raise BadInput(
            f"{told_by} describes a model of {numbers} numbers, not of {there}; download it again."
        )


def check_small_files(folder: Path) -> None:
    """Raises BadInput where a text in a diffusers folder, such as its vocabulary, is larger than any."""
    for path in (*folder.glob("*.*"), *folder.glob("*/*.*")):
        if path.suffix in (".json", ".txt") and path.is_file():
            checked_size(path, limits.VOCABULARY)
