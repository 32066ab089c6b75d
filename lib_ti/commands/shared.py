"""What the commands share: their common options, and settings as options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lib_ti.commands.parser import Parser, ShowAll
from lib_ti.core.settings import Option
from lib_ti.methods.network_args import read_network_args
from lib_ti.methods.network_settings import NetworkSettings
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
        parser.add_argument(
            "--prediction",
            choices=("eps", "v"),
            help="what the model predicts, the noise or v (default: what its file says, which is told)",
        )
        parser.add_argument("--device", default="", help="cpu, cuda, mps (default: the best there is)")
    parser.set_defaults(run=run)


def settings_options(
    parser: Parser,
    words: Sequence[str],
    leave_out: tuple[str, ...] = (),
    needed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """A choice of method, and an option for every setting but ``leave_out``: help, range and default.

    All are read; help shows the basic ones of the method that is among ``words``, or all of them where these
    ask for it. ``needed``: settings that cannot be left out, and how that is said.
    """
    kind, show_all = KINDS[_method_in(words)], _ALL in words
    methods = ", ".join(f"{kind.name} for {kind.title}" for kind in KINDS.values())
    told = f"what is trained: {methods} (default: {DEFAULT})"
    parser.add_argument("--method", choices=tuple(KINDS), default=argparse.SUPPRESS, help=told)
    parser.add_argument(_ALL, action=ShowAll, help=f"show all settings of {kind.title}, and exit")
    parser.add_argument(
        "--network-args",
        nargs="*",
        default=argparse.SUPPRESS,
        metavar="NAME=VALUE",
        help="settings of a network as sd-scripts writes them, e.g. conv_dim=4 down_lr_weight=sine+.5"
        if issubclass(kind.settings, NetworkSettings) and show_all
        else argparse.SUPPRESS,
    )
    if not show_all:
        parser.epilog = (
            f"These are the basic settings of {kind.title}. All of them: --method {kind.name} {_ALL}; those "
            "of another method: --method NAME --help."
        )
    groups: dict[str, Any] = {}
    for name, (option, plain, defaults) in all_options().items():
        if name in leave_out:
            continue
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        shown = kind.name in defaults and (show_all or option.basic or name in needed)
        told = argparse.SUPPRESS
        if shown:
            notes = _notes(option, needed.get(name) or f"default: {defaults[kind.name]!r}")
            told = f"{option.help} ({notes})".replace("%", "%%")
        _add_setting(groups[option.group], name, option, plain, told)


_ALL = "--help-all"


def _method_in(words: Sequence[str]) -> str:
    """The method that is named among ``words``, as far as that can be told before they are read."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--method", nargs="?")
    named = finder.parse_known_args([*words])[0].method
    return named if named in KINDS else DEFAULT


def _add_setting(group: Any, name: str, option: Option, plain: type, told: str) -> None:
    flag = "--" + name.replace("_", "-")
    if plain is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=told)
        return
    choices = option.choices or None
    group.add_argument(
        flag,
        nargs="+" if option.several else None,
        type=plain,
        choices=choices,
        default=argparse.SUPPRESS,
        metavar=None if choices else _METAVARS[plain],
        help=told,
    )


_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


def _notes(option: Option, more: str) -> str:
    """Its unit and range, and ``more``."""
    span = f"{option.low:g}..{option.high:g}" if option.low is not None and option.high is not None else ""
    return "; ".join(filter(None, [f"{option.unit} {span}".strip(), more]))


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
