"""What the measurements are told, and what carries each out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_ti.commands.parser import Parser
from lib_ti.commands.shared import Run, settings_options, shared_options
from lib_ti.core.later import Later

_RUN = "lib_ti.commands.bench"


def add_to(commands: Any) -> None:
    commands.add_parser(
        "bench", help="measure: the built-in model, training quality, cost of a step", options=_kinds
    )


def _kinds(parser: Parser, words: Sequence[str]) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=Parser)
    for name, (told, options) in _KINDS.items():
        kinds.add_parser(name, help=told, options=options)


def _world(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "world"))
    parser.add_argument("--images", type=int, default=256, help="pictures judged (default: 256)")
    parser.add_argument("--seed", type=int, default=0)


def _quality(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "quality"))
    parser.add_argument(
        "--concepts",
        default="",
        help="comma-separated, such as star,purple moon (default: drawn by the seed)",
    )
    parser.add_argument(
        "--pictures",
        "--images",
        dest="pictures",
        type=int,
        default=8,
        help="training pictures of a concept (default: 8)",
    )
    parser.add_argument(
        "--drawn-at",
        type=float,
        default=4.0,
        help="CFG scale of the pictures with the new word (default: %(default)g, as for the ceiling)",
    )
    parser.add_argument("--judged", type=int, default=64, help="pictures judged of each kind (default: 64)")
    parser.add_argument(
        "--sheet", type=Path, default=None, help="a PNG that shows each concept: taught from, and drawn after"
    )
    settings_options(parser, words, leave_out=("images", "name"))


def _cost(parser: Parser, words: Sequence[str]) -> None:
    _taught_options(parser, Later(_RUN, "cost"), words, leave_out=("steps", "epochs"))
    parser.add_argument(
        "--lengths",
        default="25,50,100,200,400,800,1600",
        help="image passes of the jobs that are judged (default: %(default)s)",
    )


def _rules(parser: Parser, words: Sequence[str]) -> None:
    _taught_options(parser, Later(_RUN, "stop_rules"), words, leave_out=("evaluate_every_epochs",))
    parser.add_argument("--every", type=int, default=50, help="steps between judged copies (default: 50)")


def _step(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "step"), model=False)
    parser.add_argument("--arch", choices=("sd15", "tiny"), default="tiny")
    parser.add_argument("--size", type=int, default=0, help="pixels (default: 64 for tiny, 256 for sd15)")
    parser.add_argument(
        "--pairs", type=int, default=20, help="at least 20 for a figure that is quoted (default: 20)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointing", action="store_true", help="of the floor too")


def _webui(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "webui"), model=False)
    parser.add_argument(
        "--arch", choices=("sd15", "tiny"), default="sd15", help="sd15 takes 12 GB of memory and minutes"
    )
    parser.add_argument("--size", type=int, default=0, help="pixels (default: 64 for tiny, 256 for sd15)")
    parser.add_argument("--pairs", type=int, default=8, help="steps of each, in turn (default: 8)")


def _networks(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "networks"), model=False)
    parser.add_argument("--arch", choices=("sd15", "tiny"), default="sd15", help="(default: sd15)")
    parser.add_argument("--size", type=int, default=0, help="pixels (default: 64 for tiny, 256 for sd15)")
    parser.add_argument("--steps", type=int, default=20, help="of sampling (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="pictures of each kind (default: 5)")
    parser.add_argument("--rank", type=int, default=16, help="(default: 16)")


def _cards(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "cards"), model=False)
    parser.add_argument("--side", type=int, default=2048, help="of the pictures, pixels (default: 2048)")
    parser.add_argument("--repeats", type=int, default=15, help="of each measurement (default: 15)")


def _lora(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "lora"), model=False)
    parser.add_argument("--rank", type=int, default=16, help="(default: 16)")
    parser.add_argument(
        "--conv", action=argparse.BooleanOptionalAction, default=True, help="extract 3x3 convolutions, too"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16"), default="fp16", help="(default: fp16)"
    )
    parser.add_argument("--device", default="cpu")


def _fuzz(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "fuzz"), model=False)
    parser.add_argument("--inputs", type=int, default=5000, help="of each reader (default: 5000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", default=[], help="only this one; may be given again")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs with which something is wrong")


def _parity(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "parity"), model=False)
    parser.add_argument("--concept", default="star", help="(default: star)")
    parser.add_argument("--steps", type=int, default=200, help="(default: 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--judged", type=int, default=64, help="pictures judged of each kind (default: 64)")


def _faults(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "faults"), model=False)
    parser.add_argument("--kills", type=int, default=50, help="at random moments (default: 50)")
    parser.add_argument("--seed", type=int, default=1, help="of those moments (default: 1)")
    parser.add_argument("--at-once", type=int, default=1, help="jobs that run side by side (default: 1)")
    parser.add_argument("--short", action="store_true", help="one fault of each kind, one method")


def _startup(parser: Parser, words: Sequence[str]) -> None:
    shared_options(parser, Later(_RUN, "startup"), model=False)
    parser.add_argument("--runs", type=int, default=9, help="of each line (default: 9)")


def _taught_options(parser: Parser, run: Run, words: Sequence[str], leave_out: tuple[str, ...]) -> None:
    """Of a bench that teaches concepts again and again."""
    shared_options(parser, run)
    parser.add_argument("--concepts", default="", help="as for quality")
    parser.add_argument("--pictures", type=int, default=8, help="training pictures of a concept (default: 8)")
    parser.add_argument("--judged", type=int, default=64, help="pictures judged of each kind (default: 64)")
    ours = ("images", "name", "copy_every", "evaluate_every", "save_every", "preview_every", "stop_rule")
    settings_options(parser, words, leave_out=(*ours, *leave_out))


_KINDS: dict[str, tuple[str, Callable[[Parser, Sequence[str]], None]]] = {
    "world": ("does the built-in model draw what prompts ask for?", _world),
    "quality": ("how close does a trained embedding come to the model's own words?", _quality),
    "cost": ("image passes of a job that comes to 0.9 of the ceiling, against the WebUI's own recipe", _cost),
    "stop-rules": ("what dvar and plateau would have kept of a whole job", _rules),
    "step": ("what an optimizer step costs against its floor", _step),
    "webui": ("our step against the trainer that an installed AUTOMATIC1111 WebUI brings", _webui),
    "networks": ("a network that a prompt calls, by an installed WebUI's own loader and by ours", _networks),
    "cards": ("the time to see that a picture is no card, and the bytes that a vector takes in one", _cards),
    "lora": (
        "merging a LoRA into a checkpoint of SD 1.5's shapes, and extracting it: time and memory",
        _lora,
    ),
    "startup": ("processor time of --help, --version and train --help", _startup),
    "fuzz": ("mutated files and texts by the thousand: does any reader crash, hang or run something?", _fuzz),
    "parity": ("does a job in an installed WebUI give the vectors of the command line?", _parity),
    "faults": ("full disks, lost pictures, no memory, kills: what short jobs lose by them, and say", _faults),
}
