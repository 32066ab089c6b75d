"""``ti-studio embedding VERB`` and so on: every tool as a command, made from its settings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

from tqdm import tqdm

from lib_ti.commands.shared import Stopped, joined
from lib_ti.core.errors import BadInput
from lib_ti.core.settings import build, options_of
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under
from lib_ti.report import picture_sheet, save_png
from lib_ti.tools.tool import Context, Tool, as_typed


def run(tool: Tool, args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    """On the paths as they were typed: who has a shell needs no fence. A name alone is looked for here, then
    in the folder of its kind."""
    given = {name: joined(getattr(args, name)) for name in options_of(tool.settings) if hasattr(args, name)}
    folders = folders_under(args.data)
    settings = as_typed(build(tool.settings, given), folders)
    with _bar() as progress:
        loaded: list[StandaloneHost] = []
        look = cache(partial(_load, args, loaded))
        answer = tool.run(settings, Context(stopped, progress, lambda: nullcontext(look()), look, folders))
    known = [host.info.prediction_told for host in loaded]
    answer = replace(answer, notes=(*answer.notes, *known))
    if tool.shows and args.sheet and answer.pictures:
        save_png(picture_sheet(answer.pictures), args.sheet)
    for sentence in (answer.sentence, *answer.notes):
        print(sentence, file=sys.stderr)
    if answer.told and not args.json:
        print(json.dumps(answer.told, indent=2, ensure_ascii=False))
    return answer.as_json()


def _load(args: argparse.Namespace, loaded: list[StandaloneHost]) -> StandaloneHost:
    """The model that was named, which is put into ``loaded``, too."""
    if not args.model:
        raise BadInput("no model is named; name one with --model: builtin, a checkpoint, a diffusers folder.")
    loaded.append(StandaloneHost.load(args.model, args.device, 1, args.prediction))
    return loaded[0]


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
