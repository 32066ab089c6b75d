"""Captions: what is written about a training image, and how a prompt may vary it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import read_text
from lib_ti.core.regex import find_words

ENDINGS = (".txt", ".caption", ".cap", ".tags", ".tag")  # of files with captions, also in capitals
_NO_NAME = frozenset('\\/:*?"<>|')  # in no file name on Windows
_LONGEST_NAME = 200  # bytes; file systems take 255 with what is added
_WILDCARD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")  # {{ and }} stand for the braces themselves


def read_caption(
    path: Path,
    *,
    extension: str = ".txt",
    otherwise: str | None = None,
) -> str:
    """The caption of the image at ``path``, found as the WebUI finds it.

    The ``extension`` file of the same stem wins, even when it is empty: all of it, stripped. Otherwise
    the file name without extension, leading digits and dashes: ``000001-1-a man in suit.png`` is
    ``a man in suit``. ``otherwise``: a caption in the place of the file name.

    Raises BadInput for a text file that is not UTF-8.
    """
    sidecar = path.with_name(path.stem + extension)
    if sidecar.is_file():
        return read_text(sidecar, limits.CAPTION).strip()
    if otherwise is not None:
        return otherwise
    return captions_by_name([path])[0]


def captions_by_name(pictures: Sequence[Path], word_regex: str = "", join: str = " ") -> list[str]:
    """What the file name of each picture says. ``word_regex`` picks words out of it, put together by
    ``join``; where it has groups, the first one is the word.

    Raises BadInput for a regex that does not compile, or takes too long.
    """
    names = [re.sub(r"^[-\d]+\s*", "", path.stem) for path in pictures]
    if word_regex:
        try:
            names = [join.join(words) for words in find_words(word_regex, names)]
        except BadInput as error:
            raise BadInput(f"The caption word regex: {error}") from error
    return [name.strip() for name in names]


def only_repeats_name(text: str, picture: Path) -> bool:
    """Whether a caption says no more than the name of the picture, or of the one that it is a copy of."""
    return re.sub(r"^[-\d]+\s*", "", picture.stem).startswith(text.strip())


def name_for_caption(number: int, caption: str) -> str:
    """A file's stem from which ``read_caption`` reads ``caption``, without what no file name can hold.

    What is too long for one is cut at a comma. Behind the dash is a space, which keeps the 1 of "1girl".
    """
    words = "".join(sign for sign in caption if sign.isprintable() and sign not in _NO_NAME)
    while len(words.encode()) > _LONGEST_NAME:
        words = words.rpartition(",")[0] or words[:-1]
    return f"{number:05}- {words.strip()}".rstrip(". ")


def check_extension(extension: str) -> None:
    """Raises BadInput for an ending that other files than captions have: any of those beside pictures could
    be read by it. ``.png.txt`` is one of captions."""
    if not re.fullmatch(rf"(\.[\w-]+)*({'|'.join(map(re.escape, ENDINGS))})", extension, re.IGNORECASE):
        expected = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        raise BadInput(f"caption-extension: got {extension[:40]!r}, expected an ending in {expected}.")


@dataclass(frozen=True)
class CaptionRules:
    """How a caption is varied from step to step; its tags are the parts between the separators."""

    drop_caption: float = 0.0  # how often it is left out whole, 0..1
    wildcards: bool = False  # {a|b} is a or b; of several lines one is taken
    keep_tags: int = 0  # this many at the front stay where they are
    keep_separator: str = ""  # where it occurs, what stands before it stays instead, and after a second one
    shuffle: bool = False
    drop_tags: float = 0.0  # how often each tag is left out, 0..1
    separator: str = ","
    second_separator: str = ""  # within tags; becomes a separator at the end
    drop_every: int = 0  # in every so many-th epoch the caption is left out whole; 0: in none
    warmup: float = 0.0  # steps until all its tags are there; below 1 a share of the job's; 0: from the first
    warmup_from: int = 1  # tags, beside those that stay, that the first step has

    def tags_at(self, count: int, past: int, steps: int) -> int:
        """How many of ``count`` tags are there after ``past`` of a job's ``steps``, as sd-scripts counts."""
        whole = int(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        if past >= whole:
            return count
        return max(0, math.floor(past * (count - self.warmup_from) / whole) + self.warmup_from)


def vary_caption(
    caption: str,
    rules: CaptionRules,
    generator: torch.Generator,
    epoch: int = 1,
    progress: tuple[int, int] = (0, 0),
) -> str:
    """``caption`` as one step sees it: dropped, wildcards, kept tags, shuffled, tags dropped, separators.

    ``epoch``: of the step, from 1; ``progress``: steps before it, and of the job. The order is that of
    sd-scripts, after its prefix and suffix.
    """
    if rules.drop_caption and float(torch.rand(1, generator=generator)) < rules.drop_caption:
        return ""
    if rules.drop_every and epoch % rules.drop_every == 0:
        return ""

    def choose(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    def vary(tags: list[str]) -> list[str]:
        tags = tags[: rules.tags_at(len(tags), *progress)]
        if rules.shuffle:
            tags = [tags[i] for i in torch.randperm(len(tags), generator=generator).tolist()]
        if rules.drop_tags:
            kept = (torch.rand(len(tags), generator=generator) >= rules.drop_tags).tolist()
            tags = [tag for tag, keep in zip(tags, kept, strict=True) if keep]
        return tags

    return _through(
        caption, rules, choose, vary if rules.shuffle or rules.drop_tags or rules.warmup else None
    )


def plain_caption(caption: str, rules: CaptionRules) -> str:
    """``caption`` with nothing left to chance: the first line, the first of each choice, every tag."""
    return _through(caption, rules, lambda count: 0, None)


def _through(
    caption: str,
    rules: CaptionRules,
    choose: Callable[[int], int],
    vary: Callable[[list[str]], list[str]] | None,
) -> str:
    """``choose``: one of so many, from 0; ``vary``: what becomes of the tags that are not kept."""
    if rules.wildcards:
        lines = [line for line in map(str.strip, caption.splitlines()) if line]
        caption = _WILDCARD.sub(
            lambda found: _picked(found, choose), lines[choose(len(lines))] if lines else ""
        )
    marked = bool(rules.keep_separator) and rules.keep_separator in caption
    if vary or marked:
        head, tags, tail = _parted(caption, rules, marked)
        caption = f"{rules.separator} ".join([*head, *(vary(tags) if vary else tags), *tail])
    if rules.second_separator:
        caption = caption.replace(rules.second_separator, rules.separator)
    return caption


def _picked(found: re.Match[str], choose: Callable[[int], int]) -> str:
    if found[1] is None:
        return found[0][0]
    options = found[1].split("|")
    return options[choose(len(options))]


def _parted(caption: str, rules: CaptionRules, marked: bool) -> tuple[list[str], list[str], list[str]]:
    """The tags that stay in front, those that do not, and those that stay at the end."""
    if not marked:
        tags = tags_of(caption, rules.separator)
        return tags[: rules.keep_tags], tags[rules.keep_tags :], []
    head, _, rest = caption.partition(rules.keep_separator)
    middle, _, tail = rest.partition(rules.keep_separator)
    return tags_of(head, rules.separator), tags_of(middle, rules.separator), tags_of(tail, rules.separator)


def tags_of(caption: str, separator: str) -> list[str]:
    return [tag for tag in map(str.strip, caption.split(separator)) if tag]
