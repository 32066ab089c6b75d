"""Files of many tensors, read and written tensor by tensor: a checkpoint takes the memory of its largest.

A *plan* is a file's content without its numbers: name -> tensor on the meta device. Sources:
the safetensors format; ``torch.save``; sai_model_spec 1.0.1 for the hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lib_ti.core.errors import BadInput
from lib_ti.core.files import write_atomically
from lib_ti.formats.content import METADATA, check_names, content_of, not_of_ours, safetensors_header
from lib_ti.formats.pickles import read_torch_pickle, write_torch_pickle
from lib_ti.formats.suffixes import CHECKPOINTS, PICKLED_CHECKPOINTS

Plan = Mapping[str, torch.Tensor]
Read = Callable[[str], torch.Tensor]

HASH = "modelspec.hash_sha256"  # of all tensors' bytes, as "0x" and 64 digits

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorFile:
    """An open file. ``plan``: in the order of the file; ``read(name)``: that tensor, on the CPU."""

    path: Path
    plan: Plan
    metadata: Mapping[str, str]
    read: Read


def meta(shape: torch.Size | list[int], dtype: torch.dtype) -> torch.Tensor:
    """A plan's entry."""
    return torch.empty(shape, dtype=dtype, device="meta")


def open_tensors(path: Path) -> TensorFile:
    """A safetensors file, or what ``torch.save`` wrote (its ``state_dict``, if it has one), by content.

    Raises BadInput for everything else, and at a damaged file.
    """
    kind, _ = content_of(path)
    if kind == "safetensors":
        return _open_safetensors(path)
    if kind == "pickle":
        return _open_pickle(path)
    raise not_of_ours(path, "checkpoint")


def _open_safetensors(path: Path) -> TensorFile:
    content, start = safetensors_header(path)
    content.pop(METADATA, None)
    try:
        with safe_open(path, framework="pt") as checked:  # checks every offset against the file
            metadata = checked.metadata() or {}
    except SafetensorError as error:
        raise BadInput(f"{path.name} is not a whole safetensors file: {error}.") from error
    entries = dict(sorted(content.items(), key=lambda item: item[1]["data_offsets"]))
    plan = {name: meta(entry["shape"], DTYPES[entry["dtype"]]) for name, entry in entries.items()}

    def read(name: str) -> torch.Tensor:
        # Not mapped: every page of a mapped file that was looked at counts as this process's memory.
        tensor = torch.empty_like(plan[name], device="cpu")
        with path.open("rb") as file:
            file.seek(start + entries[name]["data_offsets"][0])
            if file.readinto(bytes_of(tensor)) != tensor.nbytes:
                raise BadInput(f"{path.name} became shorter while it was read.")
        return tensor

    return TensorFile(path, plan, metadata, read)


def _open_pickle(path: Path) -> TensorFile:
    content = read_torch_pickle(path, unknown="ignore", mapped=True)
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    pairs = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(key): value for key, value in pairs if isinstance(value, torch.Tensor)}
    check_names(path, tensors)
    plan = {name: meta(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    return TensorFile(path, plan, {}, lambda name: tensors[name].clone())


def write_streamed(path: Path, plan: Plan, read: Read, metadata: Mapping[str, str]) -> None:
    """The tensors that ``read`` gives, one after the other, as ``plan`` says they are.

    The name's ending decides: ``.safetensors``, with ``metadata``, whose HASH is filled in if it is asked
    for; or a torch pickle, which has no place for metadata. Raises BadInput for another ending.
    """
    if path.suffix.lower() in PICKLED_CHECKPOINTS:
        write_torch_pickle(dict(plan), path, (_checked(read(name), plan[name], name) for name in plan))
    elif path.suffix.lower() == ".safetensors":
        stream_safetensors(path, plan, read, metadata)
    else:
        raise BadInput(f"cannot write {path.name}: expected a name ending in {', '.join(CHECKPOINTS)}.")


def stream_safetensors(path: Path, plan: Plan, read: Read, metadata: Mapping[str, str]) -> None:
    """As ``write_streamed``, whatever the file is called."""
    write_atomically(path, lambda temporary: _write_safetensors(temporary, plan, read, metadata))


def _write_safetensors(path: Path, plan: Plan, read: Read, metadata: Mapping[str, str]) -> None:
    names = in_order(plan)
    wanted = HASH in metadata
    with path.open("wb") as file:
        file.write(header(names, plan, {**metadata, HASH: "0x" + "0" * 64} if wanted else metadata))
        sha256 = hashlib.sha256()
        for name in names:
            data = bytes_of(_checked(read(name), plan[name], name))
            file.write(data)
            if wanted:
                sha256.update(data)
        if wanted:  # it keeps its length
            file.seek(0)
            file.write(header(names, plan, {**metadata, HASH: f"0x{sha256.hexdigest()}"}))


def in_order(plan: Plan) -> list[str]:
    """Wide types first, as the library does, so that every tensor is aligned."""
    return sorted(plan, key=lambda name: -plan[name].element_size())


def header(names: Sequence[str], plan: Plan, metadata: Mapping[str, str]) -> bytes:
    """What stands before the tensors, which follow in the order of ``names``."""
    # The library writes metadata in an order that changes from run to run; here it is sorted.
    content: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        tensor = plan[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        dtype, shape = _NAMES[tensor.dtype], list(tensor.shape)
        content[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    # Half a surrogate pair, from a pickle or a file name, has no UTF-8.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _checked(tensor: torch.Tensor, expected: torch.Tensor, name: str) -> torch.Tensor:
    if (tensor.shape, tensor.dtype) != (expected.shape, expected.dtype):
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, its plan says {expected}")
    return tensor.detach().cpu().contiguous()


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
