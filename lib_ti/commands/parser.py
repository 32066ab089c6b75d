"""The parser of every command: one that learns its options when it is asked, and complains in a sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import nearest


class Parser(argparse.ArgumentParser):
    """``options(parser, words)`` adds what the command takes, before it reads those words: so that only the
    command that is run has its options made, and its help can go by what was typed."""

    def __init__(
        self, *given: Any, options: Callable[[Parser, Sequence[str]], None] | None = None, **named: Any
    ) -> None:
        super().__init__(*given, **named)
        self._options = options
        self._is_command = options is not None

    def fill(self, words: Sequence[str] = ()) -> None:
        """Add the options, if they are not there yet."""
        options, self._options = self._options, None
        if options:
            options(self, words)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Raises BadInput for an option that a command of ours does not know."""
        words = list(sys.argv[1:] if args is None else args)
        self.fill(words)
        found, others = super().parse_known_args(words, namespace)
        if self._is_command and others:
            self.error(self._strange(others[0]))
        return found, others

    def _strange(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word!r} is a word too many"
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        return f"there is no option {word}{nearest(word.partition('=')[0], known)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"there is no {value!r}{nearest(str(value), known)}")

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see {self.prog} --help.")


class ShowAll(argparse.Action):
    """``--help-all``; whose options are hidden is for those to say who add them."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(
            option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help
        )

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        parser.print_help()
        parser.exit()
