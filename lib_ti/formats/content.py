"""What a file is: decided by its first bytes, never by its name; what is nothing we know is not tried."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from lib_ti.core.errors import BadInput
from lib_ti.core.files import checked_size

MAX_HEADER = 16 << 20  # bytes of a safetensors header; the format allows 100 MB
_MAX_NAME = 500  # letters of a tensor's name
MAX_TENSORS = 50_000  # in a file; a whole SDXL checkpoint has 2,515
ZIP_MAGIC = b"PK\x03\x04"

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
    if head[8:] == b"{":
        header = int.from_bytes(head[:8], "little")
        if header > MAX_HEADER:
            raise BadInput(f"{path.name} claims a header of {header} bytes; at most {MAX_HEADER} are read.")
        return "safetensors", head
    return "pickle" if head.startswith((ZIP_MAGIC, b"\x80")) else "unknown", head


def check_names(path: Path, names: Collection[str]) -> None:
    """Raises BadInput for more tensors than any file of ours can need, and for names as nobody has."""
    if len(names) > MAX_TENSORS:
        raise BadInput(f"{path.name} has {len(names)} tensors; at most {MAX_TENSORS} are read.")
    if longest := next((name for name in names if len(name) > _MAX_NAME), ""):
        raise BadInput(f"{path.name} has a tensor with a name of {len(longest)} letters, {longest[:40]!r}...")
