"""``ti-studio embedding``: look into embedding files, and convert them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lib_ti.commands.shared import Stopped, shared_options
from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Embedding, read_embeddings, write_pt, write_safetensors


def add_to(commands: Any) -> None:
    parser = commands.add_parser("embedding", help="look into embedding files, and convert them")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=type(parser))
    look = verbs.add_parser("inspect", help="what a file holds")
    shared_options(look, inspect, model=False)
    look.add_argument("file", type=Path)
    convert_ = verbs.add_parser(
        "convert", help="write it as .safetensors (all programs) or .pt (the WebUI's own)"
    )
    shared_options(convert_, convert, model=False)
    convert_.add_argument("file", type=Path)
    convert_.add_argument("to", type=Path, help="a name ending in .safetensors or .pt")
    convert_.add_argument("--overwrite", action="store_true", help="replace a file of that name")


def describe(embedding: Embedding) -> dict[str, Any]:
    """What a file holds, as JSON values; norms are Euclidean, one per vector."""
    return {
        "name": embedding.name,
        "family": embedding.family,
        "vectors": embedding.count,
        "step": embedding.step,
        "negative": embedding.is_negative,
        "encoders": {
            name: {"width": v.shape[1], "norms": [round(float(n), 4) for n in v.norm(dim=1)]}
            for name, v in embedding.vectors.items()
        },
        "metadata": dict(embedding.metadata),
    }


def inspect(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    found = [describe(embedding) for embedding in read_embeddings(args.file)]
    if not args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return {"file": str(args.file), "embeddings": found}


def convert(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    writers = {".safetensors": write_safetensors, ".pt": write_pt}
    write = writers.get(args.to.suffix.lower())
    if write is None:
        raise BadInput(f"cannot write {args.to.name}: expected a name ending in {' or '.join(writers)}.")
    embeddings = read_embeddings(args.file)
    if len(embeddings) > 1:
        targets = [args.to.with_name(f"{e.name}{args.to.suffix}") for e in embeddings]
    else:
        targets = [args.to]
    for target in targets:
        if target.exists() and not args.overwrite:
            raise BadInput(f"{target} exists; give another name, or --overwrite to replace it.")
    for embedding, target in zip(embeddings, targets, strict=True):
        write(embedding, target)
        print(f"wrote {target}", file=sys.stderr)
    return {"status": "done", "written": [str(target) for target in targets]}
