"""``ti-studio images``: tools for folders of training pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib_ti.commands.shared import Stopped, shared_options
from lib_ti.core.errors import BadInput
from lib_ti.data.shrinking import INTERPOLATIONS, Shrinking, parse_areas, planned, shrink_folder


def add_to(commands: Any) -> None:
    parser = commands.add_parser("images", help="tools for folders of training pictures")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=type(parser))
    resize_ = verbs.add_parser(
        "resize", help="copy a folder, with smaller copies of its pictures: cat+512x512.jpg"
    )
    shared_options(resize_, resize, model=False)
    resize_.add_argument("source", type=Path, help="folder with pictures")
    resize_.add_argument("target", type=Path, help="folder to write into")
    resize_.add_argument(
        "--sizes",
        default="512x512,384x384,256x256,128x128",
        help="how many pixels a copy has at most, as WIDTHxHEIGHT of a picture that has as many; its "
        "proportions are the picture's own, and nothing is enlarged (default: %(default)s)",
    )
    resize_.add_argument(
        "--divisible-by",
        type=int,
        default=1,
        help="cut the middle so that this divides both sides (default: 1)",
    )
    resize_.add_argument(
        "--interpolation", choices=tuple(INTERPOLATIONS), default="area", help="(default: area)"
    )
    resize_.add_argument("--png", action="store_true", help="copies as PNG, transparency kept, not as JPEG")
    resize_.add_argument(
        "--together",
        action="store_true",
        help="copy files of a picture's name, such as its caption, with each of its copies",
    )
    resize_.add_argument("--overwrite", action="store_true", help="replace files of these names")


def resize(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    if args.divisible_by < 1:
        raise BadInput(f"divisible-by: got {args.divisible_by}, expected at least 1.")
    shrinking = Shrinking(
        parse_areas(args.sizes), args.divisible_by, args.interpolation, args.png, args.together
    )
    plan = planned(args.source, args.target, shrinking)
    if (there := [path for path in plan if path.exists()]) and not args.overwrite:
        raise BadInput(f"{there[0]} exists; give another folder, or --overwrite to replace such files.")
    bar = tqdm(shrink_folder(plan, shrinking, stopped), total=len(plan), unit="file", file=sys.stderr)
    written = [str(path) for path in bar]
    print(f"wrote {len(written)} files to {args.target}", file=sys.stderr)
    return {"status": "done" if len(written) == len(plan) else "stopped", "written": written}
