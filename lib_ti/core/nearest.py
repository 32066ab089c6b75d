"""The name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NAMED_AT_MOST = 12


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known: the one that was probably meant, or some."""
    choices = sorted(known)
    if close := difflib.get_close_matches(word, choices, n=1, cutoff=0.5):
        return f"; perhaps {close[0]!r} is meant"
    more = f" and {len(choices) - _NAMED_AT_MOST} more" if len(choices) > _NAMED_AT_MOST else ""
    return f"; choose one of {', '.join(choices[:_NAMED_AT_MOST])}{more}"
