"""What the commands share: their common options, and settings as options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_ti.core.settings import options_of

Stopped = Callable[[], bool]
Run = Callable[[argparse.Namespace, Stopped], dict[str, Any]]


def shared_options(parser: argparse.ArgumentParser, run: Run, *, model: bool = True) -> None:
    """Options every command has; ``run(args, stop)`` carries it out and returns its JSON object."""
    parser.add_argument("--json", action="store_true", help="end with one JSON object on standard output")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder for embeddings/ and .ti-studio/ (default: here)"
    )
    if model:
        parser.add_argument(
            "--model", default="builtin", help="builtin, a checkpoint file, a diffusers folder or a hub id"
        )
        parser.add_argument("--device", default="", help="cpu, cuda, mps (default: the best there is)")
    parser.set_defaults(run=run)


def settings_options(parser: argparse.ArgumentParser, kind: type, leave_out: tuple[str, ...] = ()) -> None:
    """An option for every field of a settings class but ``leave_out``: help, range and default."""
    groups: dict[str, Any] = {}
    for name, (field, option, plain) in options_of(kind).items():
        if name in leave_out:
            continue
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        group = groups[option.group]
        flag = "--" + name.replace("_", "-")
        span = (
            f" {option.low:g}..{option.high:g}" if option.low is not None and option.high is not None else ""
        )
        notes = f"{option.unit}{span}".strip()
        told = f"{option.help} ({notes + '; ' if notes else ''}default: {field.default!r})".replace("%", "%%")
        if plain is bool:
            group.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=option.help
            )
        else:
            choices = option.choices or None
            group.add_argument(
                flag,
                type=plain,
                choices=choices,
                default=argparse.SUPPRESS,
                metavar=plain.__name__.upper() if not choices else None,
                help=told,
            )


def given_settings(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {name: getattr(args, name) for name in options_of(kind) if hasattr(args, name)}
