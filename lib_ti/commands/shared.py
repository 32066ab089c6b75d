"""What the commands share: their common options, and settings as options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_ti.core.settings import Option
from lib_ti.methods.network_args import read_network_args
from lib_ti.methods.registry import DEFAULT, KINDS, all_options

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


def settings_options(parser: argparse.ArgumentParser, leave_out: tuple[str, ...] = ()) -> None:
    """A choice of method, and an option for every setting but ``leave_out``: help, range and default."""
    methods = ", ".join(f"{kind.name} for {kind.title}" for kind in KINDS.values())
    told = f"what is trained: {methods} (default: {DEFAULT})"
    parser.add_argument("--method", choices=tuple(KINDS), default=argparse.SUPPRESS, help=told)
    parser.add_argument(
        "--network-args",
        nargs="*",
        default=argparse.SUPPRESS,
        metavar="NAME=VALUE",
        help="settings of a network as sd-scripts writes them, e.g. conv_dim=4 down_lr_weight=sine+.5",
    )
    groups: dict[str, Any] = {}
    for name, (option, plain, defaults) in all_options().items():
        if name in leave_out:
            continue
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        group = groups[option.group]
        flag = "--" + name.replace("_", "-")
        told = f"{option.help} ({_notes(option, defaults)})".replace("%", "%%")
        if plain is bool:
            group.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=told
            )
        else:
            choices = option.choices or None
            group.add_argument(
                flag,
                nargs="+" if option.several else None,
                type=plain,
                choices=choices,
                default=argparse.SUPPRESS,
                metavar=plain.__name__.upper() if not choices else None,
                help=told,
            )


def _notes(option: Option, defaults: dict[str, Any]) -> str:
    """Which methods know it, its unit and range, its default and where another method has another one."""
    notes = [] if DEFAULT in defaults else [f"{' and '.join(defaults)} only"]
    span = f"{option.low:g}..{option.high:g}" if option.low is not None and option.high is not None else ""
    notes += filter(None, [f"{option.unit} {span}".strip()])
    first, *others = defaults.items()
    notes.append(f"default: {first[1]!r}")
    notes += [f"{default!r} for {kind}" for kind, default in others if default != first[1]]
    return "; ".join(notes)


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, with the method if that was. Raises BadInput."""
    given = {name: joined(getattr(args, name)) for name in ("method", *all_options()) if hasattr(args, name)}
    if not getattr(args, "network_args", None):
        return given
    told = read_network_args(args.network_args, given.pop("method", "lora"))
    method = told.pop("method")
    known = all_options()
    typed = {name: known[name][1](text) for name, text in told.items()}  # which reading has checked
    return {"method": method, **typed, **given}


def joined(value: Any) -> Any:
    """Several values of one option as a setting has them, each on a line."""
    return "\n".join(value) if isinstance(value, list) else value
