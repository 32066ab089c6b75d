"""The name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NAMED_AT_MOST = 12


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known: the one that was probably meant, or some."""
    choices = sorted(known)
    if told := perhaps(word, choices):
        return told
    more = f" and {len(choices) - _NAMED_AT_MOST} more" if len(choices) > _NAMED_AT_MOST else ""
    return f"; choose one of {', '.join(choices[:_NAMED_AT_MOST])}{more}" if choices else ""


def perhaps(word: str, known: Iterable[str]) -> str:
    """As ``nearest``, in a sentence that tells all names anyway: "" where none is near."""
    there = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold()[:_LONGEST], there, n=1, cutoff=0.5)
    return f"; perhaps {there[close[0]]!r} is meant" if close else ""


_LONGEST = 100  # characters that are compared: the time goes by their square
