"""Files that belong together are written together, or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.files import publish, remove, replace, writing


def write_together(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Let every writer write its file; what lay there stays if one of them cannot be written.

    Raises CannotWrite, and BadInput where something has come to lie where one of ``new_files`` goes.
    """
    staged = {path: _beside(path, "new") for path in files}
    try:
        for path, write in files.items():
            with writing(path):
                write(staged[path])
        _replace_all(staged)
    finally:
        for new in staged.values():
            remove(new)


def _replace_all(staged: Mapping[Path, Path]) -> None:
    """Rename each value to its key; meanwhile copies are kept of what they replace, if there are several."""
    before = {path: _beside(path, "old") for path in staged}
    replaced: list[Path] = []
    try:
        for path, new in staged.items():
            with writing(path):
                if len(staged) > 1 and path.is_file():
                    shutil.copyfile(path, before[path])
                publish(new, path)
            replaced.append(path)
    except (OSError, BadInput):
        for path in replaced:
            if before[path].exists():
                replace(before[path], path)
            else:
                remove(path)
        raise
    finally:
        for old in before.values():
            remove(old)


def _beside(path: Path, ending: str) -> Path:
    """A hidden name that nobody else has, who may be writing the same file."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{ending}")
