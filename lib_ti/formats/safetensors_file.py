"""Safetensors files: read with a limit on the header, written with the same bytes for the same content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lib_ti.core.errors import BadInput
from lib_ti.formats.streaming import bytes_of, header, in_order, stream_safetensors

_MAX_HEADER = 16 << 20  # bytes; the format allows 100 MB


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors, on the CPU and mapped from the file, and metadata. Raises BadInput."""
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _MAX_HEADER:
            raise BadInput(f"{path.name} claims a header of {header} bytes; at most {_MAX_HEADER} are read.")
        with safe_open(path, framework="pt") as content:
            tensors = {key: content.get_tensor(key) for key in content.keys()}
            return tensors, content.metadata() or {}
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
