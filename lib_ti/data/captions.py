"""Captions: what is written about a training image, and how a prompt may vary it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput


def read_caption(path: Path, *, word_regex: str = "", join: str = " ", otherwise: str | None = None) -> str:
    """The caption of the image at ``path``, found as the WebUI finds it.

    The ``.txt`` file of the same stem wins, even when it is empty: all of it, stripped. Otherwise
    the file name without extension, leading digits and dashes: ``000001-1-a man in suit.png`` is
    ``a man in suit``. ``word_regex`` then picks words out of the file name, put together by ``join``;
    where it has groups, the first one is the word. ``otherwise``: a caption in the place of the file name.

    Raises BadInput for a text file that is not UTF-8 and for a regex that does not compile.
    """
    pattern = _compile(word_regex)
    sidecar = path.with_suffix(".txt")
    if sidecar.is_file():
        return read_text(sidecar).strip()
    if otherwise is not None:
        return otherwise
    caption = re.sub(r"^[-\d]+\s*", "", path.stem)
    if word_regex:
        group = min(pattern.groups, 1)
        caption = join.join(match[group] or "" for match in pattern.finditer(caption))
    return caption.strip()


def _compile(word_regex: str) -> re.Pattern[str]:
    try:
        return re.compile(word_regex)
    except re.error as error:
        raise BadInput(
            f"The caption word regex {word_regex!r} is not a regular expression ({error}); "
            r"mend it, for example \w+, or leave it empty to take the whole file name."
        ) from error


def read_text(path: Path) -> str:
    """A user's UTF-8 file, with or without a byte order mark; raises BadInput."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check that it is there.") from error


def shuffle_tags(caption: str, generator: torch.Generator, separator: str = ",") -> str:
    """The tags of ``caption`` in a random order."""
    tags = _split(caption, separator)
    order = torch.randperm(len(tags), generator=generator).tolist()
    return _join((tags[i] for i in order), separator)


def drop_tags(caption: str, rate: float, generator: torch.Generator, separator: str = ",") -> str:
    """``caption`` without some of its tags, each left out with probability ``rate`` (0..1)."""
    tags = _split(caption, separator)
    kept = (torch.rand(len(tags), generator=generator) >= rate).tolist()
    return _join((tag for tag, keep in zip(tags, kept, strict=True) if keep), separator)


def _split(caption: str, separator: str) -> list[str]:
    return [tag for tag in map(str.strip, caption.split(separator)) if tag]


def _join(tags: Iterable[str], separator: str) -> str:
    return f"{separator} ".join(tags)
