"""What each command is told. Nothing here imports what carries a command out, or PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lib_ti.commands import bench_options
from lib_ti.commands.parser import Parser
from lib_ti.commands.shared import settings_options, shared_options
from lib_ti.core.later import Later
from lib_ti.core.settings import Option, options_of
from lib_ti.tools.registry import GROUPS, tools_of
from lib_ti.tools.tool import Tool

_run_tool = Later("lib_ti.commands.tools", "run")


def add_demo(commands: Any) -> None:
    told = "the main job on the built-in model: eight pictures, one new word"
    commands.add_parser("demo", help=told, options=_demo)


def _demo(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later("lib_ti.commands.demo", "run"))
    parser.add_argument("--concept", default="moon", help="what to hide and teach again (default: moon)")
    parser.add_argument("--seed", type=int, default=1, help="of pictures, prompts and training (default: 1)")


def add_train(commands: Any) -> None:
    told = "train an embedding or a network from a folder of pictures"
    commands.add_parser("train", help=told, options=add_train_options)


def add_train_options(parser: Parser, words: Sequence[str]) -> None:
    again = "--resume JOB [--images FOLDER] [--model MODEL]"
    parser.usage = f"{parser.prog} --name WORD --images FOLDER [options]\n       {parser.prog} {again}"
    shared_options(parser, Later("lib_ti.commands.train", "run"))
    parser.set_defaults(model="")  # builtin, or the model of the job that is resumed
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--resume", metavar="JOB", help="go on with a stopped or killed job")
    instead.add_argument(
        "--show-tokens",
        action="store_true",
        help="train nothing: show the first prompts with their token ids and the places of the new vectors",
    )
    needed = {"name": "required", "images": "required, or dataset-config in its place"}
    settings_options(parser, words, needed=needed)


def add_suggest(commands: Any) -> None:
    told = "words of the model that come near to what pictures show"
    commands.add_parser("suggest", help=told, options=_suggest)


def _suggest(parser: Parser, words: Sequence[str]) -> None:
    parser.usage = f"{parser.prog} --images FOLDER [options]"
    shared_options(parser, Later("lib_ti.commands.suggest", "run"))
    settings_options(parser, words, needed={"images": "required, or dataset-config in its place"})


def add_sd_scripts(commands: Any) -> None:
    told = "run a command line of sd-scripts as it stands"
    commands.add_parser("sd-scripts", help=told, options=_sd_scripts)


def _sd_scripts(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later("lib_ti.commands.sd_scripts", "run"), model=False)
    parser.add_argument("--device", default="", help="cpu, cuda, mps (default: the best there is)")
    parser.add_argument(
        "line",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT ...",
        help="train_textual_inversion.py, train_network.py (with sdxl_ before them too), "
        "gen_img_diffusers.py or a tool for networks such as merge_lora.py, with its options; "
        "'accelerate launch ...' may stand before it",
    )
    parser.set_defaults(parser_class=Parser)


def add_generate(commands: Any) -> None:
    told = "draw pictures, with the embeddings and networks there are"
    commands.add_parser("generate", help=told, options=_generate)


def _generate(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later("lib_ti.commands.generate", "run"))
    parser.add_argument(
        "prompt",
        help="(a) and (a:1.2) stress, [a] softens; an embedding's name calls it, <net:NAME:0.8> or "
        "<lora:NAME:0.8> a network",
    )
    parser.add_argument(
        "--negative", default="", help="negative prompt; a network called in it acts on that half alone"
    )
    parser.add_argument("--embedding", type=Path, action="append", default=[], metavar="FILE",
                        help="an embedding file beside those in DATA/embeddings")  # fmt: skip
    parser.add_argument("--networks", type=Path, action="append", default=[], metavar="FOLDER",
                        help="a folder of networks beside DATA/loras")  # fmt: skip
    parser.add_argument("--count", type=int, default=4, help="pictures (default: 4)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first picture; the others follow (default: 1)"
    )
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: 20)")
    parser.add_argument("--cfg", type=float, default=5.0, help="guidance scale (default: 5)")
    parser.add_argument("--width", type=int, default=0, help="pixels (default: the model's own)")
    parser.add_argument("--height", type=int, default=0, help="pixels (default: the model's own)")
    parser.add_argument("--clip-skip", type=int, default=1, help="text encoder layers to leave out, plus 1")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder (default: outputs)")


def add_tools(commands: Any) -> None:
    for group, title in GROUPS.items():
        told = f"{title}: {', '.join(tool.name for tool in tools_of(group))}"
        commands.add_parser(group, help=told, options=partial(_verbs, group))


def _verbs(group: str, parser: Parser, words: Sequence[str]) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for tool in tools_of(group):
        verbs.add_parser(tool.name, help=tool.help, description=tool.help, options=partial(_tool, tool))


def _tool(tool: Tool, parser: Parser, words: Sequence[str]) -> None:
    own_device = "device" in options_of(tool.settings)  # what computes without a model
    shared_options(parser, partial(_run_tool, tool), model=not own_device)
    parser.set_defaults(model="")  # what a tool says of files it must not say of a model nobody named
    if tool.shows:
        parser.add_argument("--sheet", type=Path, help="write what there is to look at as one PNG")
    for name, (field, option, plain) in options_of(tool.settings).items():
        _add(parser, name, field.default, option, plain)


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


# In the order of --help.
COMMANDS = (
    add_demo,
    add_train,
    add_suggest,
    add_sd_scripts,
    add_generate,
    add_tools,
    bench_options.add_to,
)
