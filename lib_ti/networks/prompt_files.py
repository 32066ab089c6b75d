"""The network files that prompts may call, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.names import files_inside
from lib_ti.core.nearest import nearest
from lib_ti.core.text import as_text
from lib_ti.formats.embedding import Family
from lib_ti.formats.safetensors_file import read_metadata
from lib_ti.formats.suffixes import NETWORKS
from lib_ti.networks.files import family_of_file

_SAFETENSORS = ".safetensors"
_UNSHOWN = re.compile(r"[<>\"\x00-\x1f]")  # in a name: pages would take them for their own


class NetworkFolders:
    """The files in and below some folders; of two with one name the earlier folder's counts."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    def files(self) -> dict[str, Path]:
        """Name -> file, in the order of the names. Hidden files and folders do not count, nor does a name
        that no tag can call; of two of one name in one folder the safetensors file does.

        Links are followed, since models often lie on another disk; nothing here is written by name alone.
        """
        found: dict[str, Path] = {}
        for folder in self.folders:
            inside = files_inside(folder, NETWORKS, linked=True)
            shown = [path for told, path in inside.items() if _UNSHOWN.search(told) is None]
            # A folder's own files before those of the folders in it.
            for path in sorted(shown, key=lambda path: (path.parent.parts, path.suffix != _SAFETENSORS)):
                if _is_callable(path.stem):
                    found.setdefault(as_text(path.stem), path)
        return dict(sorted(found.items(), key=lambda item: item[0].casefold()))

    def find(self, name: str) -> Path:
        """By the file's name, in small letters too, or by the one its metadata give it.

        Raises BadInput, with the nearest name where there is one.
        """
        files = self.files()
        wanted = name.removesuffix(_SAFETENSORS)
        folded = {known.casefold(): path for known, path in files.items()}
        path = files.get(wanted) or folded.get(wanted.casefold()) or _by_alias(files, wanted)
        if path is None:
            told = nearest(wanted, files) if files else ""
            where = ", ".join(map(str, self.folders))
            raise BadInput(f"there is no network {name!r} in {where}{told}.")
        return path

    def with_hash(self, digits: str) -> str | None:
        """The name of the file whose trainer wrote a hash that begins so, or the older hash that is so."""
        for name, path in self.files().items():
            with suppress(BadInput):  # a damaged file is not the one that was meant
                told = metadata_of(path)
                if (
                    told.get("sshs_model_hash", "").startswith(digits)
                    or told.get("sshs_legacy_hash") == digits
                ):
                    return name
        return None


def _is_callable(name: str) -> bool:
    """A tag's parts end at colons, and spaces around them do not count."""
    return ":" not in name and name == name.strip()


def _by_alias(files: dict[str, Path], wanted: str) -> Path | None:
    for path in files.values():
        try:
            if metadata_of(path).get("ss_output_name") == wanted:
                return path
        except BadInput:
            continue  # a damaged file is not the one that was meant
    return None


def metadata_of(path: Path) -> dict[str, str]:
    """Without reading the tensors; kept until the file changes. Raises BadInput."""
    try:
        return dict(_metadata(path, *stamp(path)))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error


def family_of_network(path: Path) -> Family | None:
    """By metadata and shapes of the tensors; kept as they are. Raises BadInput."""
    try:
        return _family(path, *stamp(path))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error


def stamp(path: Path) -> tuple[int, int]:
    """Another one when the file has changed: its time in nanoseconds, its size in bytes."""
    told = path.stat()
    return told.st_mtime_ns, told.st_size


@lru_cache(maxsize=4096)
def _metadata(path: Path, _time: int, _size: int) -> dict[str, str]:
    return read_metadata(path)


@lru_cache(maxsize=4096)
def _family(path: Path, _time: int, _size: int) -> Family | None:
    return family_of_file(path)
