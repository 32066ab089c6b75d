"""What has been found out about picture files, so that a second start need not read them again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.files import CannotWrite, forget_unfinished, write_text
from lib_ti.data.buckets import Size
from lib_ti.data.images import Head, image_hash, read_head

log = logging.getLogger(__name__)

# A file changed twice within the clock's grain looks unchanged the second time.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Facts:
    """``content``: SHA-256 of the file's bytes; the rest is as in ``Head``."""

    content: str
    size: Size
    mask: str = ""  # the content of the file with its mask
    converted: bool = False
    remarks: Sequence[str] = ()


def facts_of(path: Path) -> Facts:
    """Found out anew. Raises BadInput."""
    return _facts(image_hash(path), read_head(path))


def _facts(content: str, head: Head) -> Facts:
    return Facts(content, head.size, converted=head.converted, remarks=head.remarks)


class KnownFiles:
    """Facts of picture files, remembered in ``file`` by path, length and time of change."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _read(file)
        self._new = False

    def facts(self, path: Path) -> Facts:
        """The facts of the picture at ``path``. Raises BadInput where it cannot be read."""
        try:
            stat = path.stat()
        except OSError as error:
            raise BadInput(
                f"{path} cannot be read ({error.strerror}); check that it is still there."
            ) from error
        key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        match self._known.get(key):
            case [length, changed, str(content), int(width), int(height), bool(converted), [*told]] if [
                length,
                changed,
            ] == stamp:
                return _facts(content, Head((width, height), converted, tuple(map(str, told))))
        found = facts_of(path)
        if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
            self._known[key] = [*stamp, found.content, *found.size, found.converted, [*found.remarks]]
            self._new = True
        return found

    def save(self) -> None:
        """Write down what is new, and forget files that are gone. A disk that takes no more costs the next
        start some time, and this one nothing."""
        if not self._new:
            return
        there = {key: entry for key, entry in self._known.items() if Path(key).exists()}
        try:
            write_text(self._file, json.dumps(there, ensure_ascii=False))
        except CannotWrite as error:
            log.warning("what is known of the pictures is not kept for the next start: %s", error)
            return
        forget_unfinished(self._file.parent, self._file.name)
        self._new = False


def _read(file: Path) -> dict[str, Any]:
    """What was written down; nothing where that cannot be read, for it can be found out again."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
