"""Safetensors files: read with a limit on the header, written with the same bytes for the same content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lib_ti.core.errors import BadInput
from lib_ti.formats.content import content_of, not_of_ours, safetensors_header
from lib_ti.formats.streaming import bytes_of, header, in_order, stream_safetensors


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata. Raises BadInput.

    The library's tensors are mapped from the file, and Windows lets nobody replace a file that is: these are
    copies.
    """
    with opened(path) as content:
        return {key: content.get_tensor(key).clone() for key in content.keys()}, content.metadata() or {}


def read_metadata(path: Path) -> dict[str, str]:
    """Without the tensors; none where the file is of another kind. Raises BadInput."""
    if content_of(path)[0] != "safetensors":
        return {}
    with opened(path) as content:
        return content.metadata() or {}


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Of the tensors, without reading them. Raises BadInput."""
    with opened(path) as content:
        return {key: tuple(content.get_slice(key).get_shape()) for key in content.keys()}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The library's own handle, which checks every offset against the file; shapes, types and names are
    checked before. Raises BadInput."""
    kind, _ = content_of(path)
    if kind == "pickle":
        raise BadInput(f"{path.name} is a torch pickle; a safetensors file is needed here.")
    if kind != "safetensors":
        raise not_of_ours(path, "file of tensors")
    safetensors_header(path)
    try:
        with safe_open(path, framework="pt") as content:
            yield content
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    except SafetensorError as error:
        raise BadInput(f"{path.name} is not a whole safetensors file: {error}.") from error


def write_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """All at once, in the order of their names."""
    stream_safetensors(path, dict(sorted(tensors.items())), tensors.__getitem__, metadata)


def serialized(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[bytes]]:
    """The bytes of the file that ``write_tensors`` writes: its head, and those of each tensor after it."""
    plan = dict(sorted(tensors.items()))
    names = in_order(plan)
    data = [bytes(bytes_of(tensors[name].detach().cpu().contiguous())) for name in names]
    return header(names, plan, metadata), data
