"""The choosers of files on the page, and what they offer.

Folders of models can be large and far away: they are walked when somebody opens a part of the page or has
used a tool, once for all choosers of a kind, and not while the page is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from lib_ti.tools.tool import LISTED
from lib_ti.workshop import Workshop


class FileLists:
    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._kinds: list[tuple[str, tuple[str, ...]]] = []  # of each control: its kind, and what comes first
        self.controls: list[Any] = []

    def choices(self, kind: str, *, may_be_empty: bool) -> Callable[[], Sequence[str]] | None:
        """What a chooser offers that is asked alone; None for kinds of which any name may be typed."""
        if kind not in LISTED:
            return None
        first = _first(may_be_empty)
        return lambda: [*first, *self._names(kind)]

    def add(self, control: Any, kind: str, *, may_be_empty: bool = False) -> None:
        self.controls.append(control)
        self._kinds.append((kind, _first(may_be_empty)))

    def updates(self) -> list[Any]:
        """For ``controls``."""
        there = {kind: self._names(kind) for kind in dict.fromkeys(kind for kind, _ in self._kinds)}
        return [gr.update(choices=[*first, *there[kind]]) for kind, first in self._kinds]

    def _names(self, kind: str) -> list[str]:
        return self._workshop.files(kind) or []


def _first(may_be_empty: bool) -> tuple[str, ...]:
    """Nothing, where nothing needs be chosen."""
    return ("",) if may_be_empty else ()
