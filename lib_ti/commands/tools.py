"""``ti-studio embedding VERB`` and so on: every tool as a command, made from its settings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib_ti.commands.shared import Stopped, joined, shared_options
from lib_ti.core.errors import BadInput
from lib_ti.core.settings import Option, build, options_of
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under
from lib_ti.report import picture_sheet, save_png
from lib_ti.tools.registry import GROUPS, tools_of
from lib_ti.tools.tool import Context, Tool


def add_to(commands: Any) -> None:
    for group, title in GROUPS.items():
        parser = commands.add_parser(
            group, help=f"{title}: {', '.join(tool.name for tool in tools_of(group))}"
        )
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=type(parser))
        for tool in tools_of(group):
            verb = verbs.add_parser(tool.name, help=tool.help, description=tool.help)
            own_device = "device" in options_of(tool.settings)  # what computes without a model
            shared_options(verb, partial(run, tool), model=not own_device)
            verb.set_defaults(model="")  # what a tool says of files it must not say of a model nobody named
            if tool.shows:
                verb.add_argument("--sheet", type=Path, help="write what there is to look at as one PNG")
            for name, (field, option, plain) in options_of(tool.settings).items():
                _add(verb, name, field.default, option, plain)


def _add(parser: argparse.ArgumentParser, name: str, default: Any, option: Option, plain: type) -> None:
    """What is needed stands in its place, in the order of the settings; the rest is named."""
    flag = name if option.needed else "--" + name.replace("_", "-")
    told = option.help.replace("%", "%%") + ("" if option.needed else f" (default: {default!r})")
    if plain is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=told)
        return
    more: dict[str, Any] = {"nargs": "+"} if option.several else {}
    if not option.needed:
        more["default"] = argparse.SUPPRESS
    parser.add_argument(flag, type=plain, choices=option.choices or None, help=told, **more)


def run(tool: Tool, args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    """On the paths as they were typed: who has a shell needs no fence."""
    given = {name: joined(getattr(args, name)) for name in options_of(tool.settings) if hasattr(args, name)}
    settings: Any = build(tool.settings, given)
    with _bar() as progress:
        look = cache(partial(_load, args))
        answer = tool.run(
            settings, Context(stopped, progress, lambda: nullcontext(look()), look, folders_under(args.data))
        )
    if tool.shows and args.sheet and answer.pictures:
        save_png(picture_sheet(answer.pictures), args.sheet)
    for sentence in (answer.sentence, *answer.notes):
        print(sentence, file=sys.stderr)
    if answer.told and not args.json:
        print(json.dumps(answer.told, indent=2, ensure_ascii=False))
    return answer.as_json()


def _load(args: argparse.Namespace) -> StandaloneHost:
    if not args.model:
        raise BadInput("no model is named; name one with --model: builtin, a checkpoint, a diffusers folder.")
    return StandaloneHost.load(args.model, args.device, 1)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Shown from the first step on."""
    bar: tqdm[Any] | None = None

    def progress(done: int, of: int) -> None:
        nonlocal bar
        bar = bar or tqdm(total=of, unit="", file=sys.stderr)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
