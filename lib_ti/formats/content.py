"""What a file is: decided by its first bytes, never by its name; what is nothing we know is not tried."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import checked_size, parse_json

ZIP_MAGIC = b"PK\x03\x04"
METADATA = "__metadata__"  # the key of a safetensors header that is no tensor's name
# Bytes of a number, by the names that safetensors has for those that torch has had since 2.1.
BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_LARGEST = 1 << 63  # bytes that torch can count

Content = Literal["safetensors", "pickle", "unknown"]


def content_of(path: Path, most: int | None = None) -> tuple[Content, bytes]:
    """What the file is, and the nine bytes that tell. Raises BadInput where it cannot be read, has more than
    ``most`` bytes, or claims a header that nobody needs."""
    checked_size(path, most)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    if head[8:] == b"{" and not what_else(head):
        header = int.from_bytes(head[:8], "little")
        if header > limits.HEADER:
            raise BadInput(
                f"{path.name} claims a header of {header} bytes; at most {limits.HEADER} are read."
            )
        return "safetensors", head
    return "pickle" if head.startswith((ZIP_MAGIC, b"\x80")) else "unknown", head


HEAD = 1024  # bytes that tell what a file is that is none of ours
_WEB_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_OTHERS = (
    (b"\x89PNG", "a PNG picture; if it is a card, import it as one"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GGUF", "a GGUF file, whose packed weights are not read; take the file that it was made from"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
)


def what_else(head: bytes) -> str:
    """What a file is that begins so and is none of ours, and what helps; "" where that is not known."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "empty; download or copy it again"
    if text.startswith(b"version https://git-lfs"):
        return (
            "a pointer of Git LFS, a few lines of text in the place of the file; get the file itself with "
            "'git lfs pull', or from the download button of its page"
        )
    if _WEB_PAGE.match(text):
        return (
            "a web page under a model's name, as one gets for an address that wants a login or is wrong; "
            "download it again"
        )
    if re.match(rb"[{\[]\s*[\"{\[\]}]", text):
        return (
            "JSON text under a model's name, such as a site's error; open it as text, and download it again"
        )
    return next((told for start, told in _OTHERS if head.startswith(start)), "")


def not_of_ours(path: Path, needed: str) -> BadInput:
    """That ``path``, which is neither a safetensors file nor a torch pickle, cannot be ``needed``, and what
    it is instead. What it holds is not quoted: whoever asks over HTTP may have named anybody's file."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        return BadInput(f"{path} cannot be read: {error.strerror}.")
    if told := what_else(head):
        return BadInput(f"{path.name} is no {needed} but {told}.")
    return BadInput(
        f"{path.name} is neither a safetensors file nor one that torch saved, so no {needed}; download or "
        "copy it again."
    )


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """What the header of a safetensors file says, and where the tensors begin.

    ``content_of`` has told what it is. Whoever reads tensors has the library check their places, too. Raises
    BadInput for shapes, types and names that no tensor of ours has.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            text = file.read(min(size, limits.HEADER))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    if (count := text.count(b'"data_offsets"')) > limits.TENSORS:
        raise BadInput(f"{path.name} has {count} tensors; at most {limits.TENSORS} are read.")
    try:
        header = parse_json(text, limits.HEADER)
    except ValueError as error:
        raise BadInput(f"{path.name} is not a whole safetensors file: {error}.") from error
    if not isinstance(header, dict):
        raise BadInput(f"{path.name} is not a whole safetensors file: its header names no tensors.")
    for name, entry in header.items():
        if name != METADATA:
            _check_entry(path, name, entry)
        else:
            _check_metadata(path, entry)
    check_names(path, header)
    return header, 8 + size


def _check_metadata(path: Path, metadata: Any) -> None:
    told = metadata if isinstance(metadata, Mapping) else {METADATA: metadata}
    for key, value in told.items():
        if not isinstance(value, str):
            raise BadInput(
                f"{path.name} says {json.dumps({key: value})[:80]} of itself, and metadata of a safetensors "
                "file are text: no program reads it so; have it saved again with text there, or without it."
            )


def _check_entry(path: Path, name: str, entry: Any) -> None:
    told = entry if isinstance(entry, Mapping) else {}
    shape, dtype = told.get("shape"), told.get("dtype")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise BadInput(f"{path.name} is not a whole safetensors file: an entry of its header has no shape.")
    if dtype not in BYTES:
        raise BadInput(
            f"{path.name} has tensors of the type {str(dtype)[:20]}; expected one of {', '.join(BYTES)}."
        )
    # Also where a side is 0: torch counts the steps from one number to the next.
    if len(shape) > limits.AXES or math.prod(max(1, side) for side in shape) * BYTES[dtype] >= _LARGEST:
        raise BadInput(
            f"{path.name} has a tensor of the shape {json.dumps(shape)[:80]}, {name[:80]!r}; expected at "
            f"most {limits.AXES} axes, and no more numbers than a file can hold."
        )


def check_names(path: Path, names: Collection[str]) -> None:
    """Raises BadInput for more tensors than any file of ours can need, and for names as nobody has."""
    if len(names) > limits.TENSORS:
        raise BadInput(f"{path.name} has {len(names)} tensors; at most {limits.TENSORS} are read.")
    if longest := next((name for name in names if len(name) > limits.TENSOR_NAME), ""):
        raise BadInput(f"{path.name} has a tensor with a name of {len(longest)} letters, {longest[:40]!r}...")
