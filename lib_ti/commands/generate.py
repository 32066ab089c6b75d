"""``ti-studio generate``: draw pictures, with the embeddings that are there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lib_ti.commands.shared import Stopped, shared_options
from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import read_embedding, read_embeddings
from lib_ti.hosts.base import Host, SampleRequest
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under
from lib_ti.report import save_png


def add_to(commands: Any) -> None:
    parser = commands.add_parser("generate", help="draw pictures, with the embeddings that are there")
    shared_options(parser, run)
    parser.add_argument("prompt", help="(a) and (a:1.2) stress, [a] softens; an embedding's name calls it")
    parser.add_argument("--negative", default="", help="negative prompt")
    parser.add_argument("--embedding", type=Path, action="append", default=[], metavar="FILE",
                        help="an embedding file beside those in DATA/embeddings")  # fmt: skip
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


def run(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    for name, low, high in (("count", 1, 1000), ("steps", 1, 1000), ("cfg", 1, 50), ("seed", 0, 2**32 - 1)):
        if not low <= getattr(args, name) <= high:
            raise BadInput(f"{name}: got {getattr(args, name)}, expected {low} to {high}.")
    host = StandaloneHost.load(args.model, args.device, args.clip_skip)
    with host.lend():
        load_embeddings(host, folders_under(args.data).embeddings, args.embedding)
        counts = host.count_triggers(f"{args.prompt} BREAK {args.negative}")
        called = sorted(name for name, count in counts.items() if count)
        paths: list[Path] = []
        for seed in range(args.seed, args.seed + args.count):
            if stopped():
                break
            request = SampleRequest(
                prompts=[args.prompt],
                seeds=[seed],
                negative_prompt=args.negative,
                steps=args.steps,
                cfg_scale=args.cfg,
                width=args.width or host.info.native_size,
                height=args.height or host.info.native_size,
            )
            paths.append(_free_name(args.out, seed))
            save_png(host.sample(request)[0], paths[-1])
            print(paths[-1], file=sys.stderr)
    status = "done" if len(paths) == args.count else "stopped"
    return {"status": status, "images": [str(path) for path in paths], "embeddings": called}


def load_embeddings(host: Host, folder: Path, files: list[Path]) -> None:
    """Let prompts call the embeddings in ``folder``, as a WebUI does, and those in ``files``.

    One in the folder that is for another family is passed over with a word; a named one is refused.
    """
    live = {}
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        try:
            found = read_embeddings(path) if path.is_file() and not path.name.startswith(".") else []
        except BadInput as error:
            print(f"not used: {error}", file=sys.stderr)
            continue
        for embedding in found:
            widths = {name: vectors.shape[1] for name, vectors in embedding.vectors.items()}
            if widths == dict(host.info.text_encoders):
                live[embedding.name] = embedding.vectors
            else:
                print(
                    f"not used: {path.name} is for {embedding.family}, this is another model", file=sys.stderr
                )
    for path in files:
        embedding = read_embedding(path)
        live[embedding.name] = embedding.vectors
    device = host.info.device
    host.set_embeddings(
        {name: {k: v.to(device) for k, v in vectors.items()} for name, vectors in live.items()}
    )


def _free_name(folder: Path, seed: int) -> Path:
    for number in range(10_000):
        path = folder / (f"{seed}.png" if number == 0 else f"{seed}-{number}.png")
        if not path.exists():
            return path
    raise BadInput(f"{folder} already holds ten thousand pictures of seed {seed}; choose another --out.")
