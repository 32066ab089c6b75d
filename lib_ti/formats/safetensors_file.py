"""Safetensors files: read with a limit on the header, written with the same bytes for the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lib_ti.core.errors import BadInput
from lib_ti.core.files import write_atomically

_MAX_HEADER = 16 << 20  # bytes; the format allows 100 MB

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


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
    """The library writes metadata in an order that changes from run to run; here it is sorted."""
    head, data = serialized(tensors, metadata)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(head)
            file.writelines(data)

    write_atomically(path, write)


def serialized(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[bytes]]:
    """The bytes of a file: its head, and those of each tensor after it."""
    # Wide types first, as the library does, so that every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    data = [_bytes(tensors[name]) for name in names]
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, content in zip(names, data, strict=True):
        start, end = end, end + len(content)
        dtype, shape = _DTYPE_NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    # Half a surrogate pair, from a pickle or a file name, has no UTF-8.
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, data


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
