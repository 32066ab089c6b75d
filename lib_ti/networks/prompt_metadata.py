"""A network file's metadata as a text that people can read and change, and back into the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json, write_atomically
from lib_ti.formats.content import content_of
from lib_ti.formats.safetensors_file import opened
from lib_ti.networks.files import check_network
from lib_ti.networks.prompt_files import metadata_of

_KEY = "__metadata__"  # in a safetensors file's header
# Of the whole file's first megabytes with the metadata in them, so nobody can check it afterwards.
_STALE = "sshs_legacy_hash"


def metadata_shown(path: Path) -> dict[str, Any]:
    """As JSON values; those that hold JSON themselves are laid open. Raises BadInput."""
    return {key: _opened(value) for key, value in sorted(metadata_of(path).items())}


def save_metadata_text(path: Path, text: str) -> dict[str, str]:
    """The metadata that ``path`` has now; what was not changed keeps its very text, and the tensors theirs.

    Raises BadInput, with nothing written, where the file is no network or ``text`` no JSON object.
    """
    if content_of(path)[0] != "safetensors":
        raise BadInput(f"{path.name} is no safetensors file, so it has no metadata; nothing was saved.")
    if len(text) > limits.HEADER:
        raise BadInput(f"{len(text)} characters are too many for metadata; nothing was saved.")
    check_network(path)
    before = metadata_of(path)
    try:
        given = parse_json(text)
    except ValueError as error:
        raise BadInput(f"this is not JSON ({error}); nothing was saved.") from error
    if not isinstance(given, dict):
        raise BadInput('expected one JSON object such as {"ss_training_comment": "..."}; nothing was saved.')
    after = {
        key: before[key] if key in before and _is_same(_opened(before[key]), value) else _closed(value)
        for key, value in given.items()
    }
    if after != before:
        replace_metadata(path, {key: value for key, value in after.items() if key != _STALE})
    return metadata_of(path)


def replace_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Another header before the same bytes of tensors; the file is replaced whole. Raises BadInput."""

    def write(temporary: Path) -> None:
        with path.open("rb") as source, temporary.open("wb") as target:
            size = int.from_bytes(source.read(8), "little")
            header: dict[str, Any] = json.loads(source.read(size))
            header.pop(_KEY, None)
            if metadata:
                header = {_KEY: dict(sorted(metadata.items())), **header}
            new = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
            new += b" " * (-len(new) % 8)
            target.write(len(new).to_bytes(8, "little") + new)
            shutil.copyfileobj(source, target, 1 << 20)

    with opened(path):  # raises BadInput for what is no whole safetensors file
        pass
    write_atomically(path, write)


def _opened(value: str) -> Any:
    try:
        return parse_json(value) if value[:1] in ("{", "[") else value
    except ValueError:
        return value


def _is_same(one: Any, other: Any) -> bool:
    """As JSON has it: Python takes 1 for true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _closed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
