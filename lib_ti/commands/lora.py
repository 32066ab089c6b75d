"""``ti-studio lora``: merge, extract, cut, resize and look into networks of the LoRA family."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lib_ti.commands.shared import Stopped, shared_options
from lib_ti.core.errors import BadInput
from lib_ti.formats.streaming import SUFFIXES
from lib_ti.networks.algebra import Update
from lib_ti.networks.files import read_network
from lib_ti.networks.svd import METHODS, check_method
from lib_ti.networks.tools.combine import Term, add, add_at_rank, common_metadata
from lib_ti.networks.tools.describe import describe
from lib_ti.networks.tools.extract import Extraction, extract
from lib_ti.networks.tools.into_checkpoint import CheckpointMerge, tell, unmerged
from lib_ti.networks.tools.resize import Resizing, cut_dylora, resized
from lib_ti.networks.tools.saving import metadata_of, precision_of, save_network
from lib_ti.networks.tools.stored import Checkpoint, open_checkpoint

PRECISIONS: Mapping[str, torch.dtype] = {
    "float": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def add_to(commands: Any) -> None:
    parser = commands.add_parser("lora", help="merge, extract, cut, resize and look into LoRA files")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=type(parser))
    for add_verb in (_add_merge, _add_extract, _add_split, _add_resize, _add_inspect):
        add_verb(verbs)


def _add_merge(verbs: Any) -> None:
    verb = verbs.add_parser(
        "merge",
        help="several networks into one, or into a checkpoint",
        description="Into a checkpoint (--into) networks of every algorithm are merged; LoRA files into one "
        "exactly, at the sum of their ranks, or at --rank as nearly as that rank can.",
    )
    _tool_options(verb, merge)
    verb.add_argument("files", type=Path, nargs="+", metavar="FILE")
    verb.add_argument("--ratios", type=float, nargs="+", help="one a file, also negative ones (default: 1)")
    verb.add_argument("--into", type=Path, metavar="CHECKPOINT", help=".safetensors or .ckpt")
    verb.add_argument(
        "--rank", type=int, help="of the result; 0: the largest that each layer has among the files"
    )
    verb.add_argument("--conv-rank", type=int, help="of 3x3 convolutions (default: as --rank)")
    verb.add_argument("--clamp", type=float, default=1.0, help=_CLAMP)
    verb.add_argument(
        "--shuffle", action="store_true", help="in an order by chance, so that no file can be cut out again"
    )


def _add_extract(verbs: Any) -> None:
    verb = verbs.add_parser("extract", help="the difference of two checkpoints as a LoRA")
    _tool_options(verb, extract_)
    verb.add_argument("original", type=Path, help="checkpoint that the LoRA will be used with")
    verb.add_argument("tuned", type=Path, help="checkpoint that it shall come near to")
    verb.add_argument("--rank", type=int, default=4, help="(default: 4)")
    verb.add_argument("--conv-rank", type=int, default=0, help="of 3x3 convolutions (default: 0, left out)")
    verb.add_argument(
        "--min-diff",
        type=float,
        default=0.01,
        help="text encoders in which no number differs by more are the same: U-Net only (default: 0.01)",
    )
    verb.add_argument("--clamp", type=float, default=1.0, help=_CLAMP)


def _add_split(verbs: Any) -> None:
    verb = verbs.add_parser("split", help="a DyLoRA as one file a rank: NAME-0004.safetensors, ...")
    _tool_options(verb, split)
    verb.add_argument("file", type=Path)
    verb.add_argument("--unit", type=int, default=1, help="that it was trained with (default: 1)")


def _add_resize(verbs: Any) -> None:
    verb = verbs.add_parser("resize", help="a LoRA at a lower rank, as near to itself as that can be")
    _tool_options(verb, resize)
    verb.add_argument("file", type=Path)
    verb.add_argument("--rank", type=int, default=4, help="the most that is kept (default: 4)")
    verb.add_argument("--conv-rank", type=int, help="of 3x3 convolutions (default: as --rank)")
    verb.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="fixed",
        help="which singular values of each layer to keep: fixed, as many as --rank; sv_ratio, those above "
        "the largest divided by --parameter; sv_cumulative, as few as sum to that share; sv_fro, as few as "
        "hold that share of the Frobenius norm (default: fixed)",
    )
    verb.add_argument("--parameter", type=float, help="of --method")


def _add_inspect(verbs: Any) -> None:
    verb = verbs.add_parser("inspect", help="family, algorithms, ranks, norms and metadata of a file")
    shared_options(verb, inspect, model=False)
    verb.add_argument("file", type=Path)
    verb.add_argument("--layers", action="store_true", help="tell of every layer, too")


_CLAMP = (
    "cut the numbers of a new file at this quantile of them all; sd-scripts' scripts do at 0.99 "
    "(default: 1, not at all)"
)


def _tool_options(verb: Any, run: Any) -> None:
    shared_options(verb, run, model=False)
    verb.add_argument("--to", type=Path, required=True, help=f"file to write: {', '.join(SUFFIXES)}")
    verb.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    verb.add_argument("--save-precision", choices=tuple(PRECISIONS), help="(default: as what is read)")
    verb.add_argument("--device", default="cpu", help="to compute on: cpu, cuda, mps (default: cpu)")


def merge(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    ratios = args.ratios or [1.0] * len(args.files)
    if len(ratios) != len(args.files):
        raise BadInput(f"ratios: got {len(ratios)} for {len(args.files)} files; expected one for each.")
    if args.into is not None and (args.rank is not None or args.conv_rank is not None or args.shuffle):
        raise BadInput("--rank, --conv-rank and --shuffle are of a new network; leave them out with --into.")
    if args.rank is None and (args.conv_rank is not None or args.clamp != 1):
        raise BadInput("--conv-rank and --clamp belong to --rank; give that, too, or leave them out.")
    if args.rank is not None and args.shuffle:
        raise BadInput("--shuffle is for a sum without --rank; with it the rows are mixed already.")
    _check_ranks(args, least=0)
    _check_clamp(args)
    _check_free(args, [args.to])
    into = None if args.into is None else open_checkpoint(args.into)
    family = into.family if into else "sd1"
    terms = [Term(read_network(path, family), ratio) for path, ratio in zip(args.files, ratios, strict=True)]
    if into is not None:
        return _merge_into(args, into, terms, stopped)
    families = {term.network.family for term in terms} - {None}
    if len(families) > 1:
        raise BadInput(f"the networks are of different families: {', '.join(sorted(map(str, families)))}.")
    updates: Mapping[str, Update]
    if args.rank is None:
        updates = add(terms, _by_chance() if args.shuffle else None)
    else:
        with _Bar("layer", stopped) as watch:
            updates = add_at_rank(
                terms, args.rank or None, args.conv_rank, clamp=args.clamp, device=_device(args), watch=watch
            )
    names = [term.network.name for term in terms]
    metadata = metadata_of(
        args.to, updates, next(iter(families), None), common_metadata(terms), merged_from=names
    )
    dtype = _dtype(args) or precision_of(terms[0].network)
    save_network(args.to, updates, dtype, metadata)
    return _done(f"merged {' and '.join(names)}: {len(updates)} modules", [args.to])


def _merge_into(
    args: argparse.Namespace, checkpoint: Checkpoint, terms: Sequence[Term], stopped: Stopped
) -> dict[str, Any]:
    new = CheckpointMerge(checkpoint, terms, _dtype(args), _device(args))
    for applied in new.applied:
        print(applied, file=sys.stderr)
    if averages := sum(1 for _ in unmerged(checkpoint.file)):
        print(f"{averages} averaged weights (model_ema) stay as they were", file=sys.stderr)
    with _Bar("tensor", stopped) as watch:
        new.write(args.to, watch)
    described = args.into.with_suffix(".yaml")
    beside = args.to.with_suffix(".yaml")
    if described.is_file() and not beside.exists():
        shutil.copyfile(described, beside)
    told = _done(f"merged into {args.into.name}", [args.to])
    return {**told, "networks": tell(new.applied)}


def _by_chance() -> torch.Generator:
    """Not from a seed: whoever knew it could undo the shuffle."""
    generator = torch.Generator()
    generator.seed()
    return generator


def extract_(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    _check_ranks(args, least=1)
    _check_clamp(args)
    _check_free(args, [args.to])
    original, tuned = open_checkpoint(args.original), open_checkpoint(args.tuned)
    extraction = Extraction(args.rank, args.conv_rank, args.min_diff, args.clamp)
    with _Bar("layer", stopped) as watch:
        found = extract(original, tuned, extraction, _device(args), watch)
    comment = f"extracted from {args.tuned.stem} - {args.original.stem}"
    metadata = metadata_of(
        args.to, found.updates, original.family, {}, comment=comment, prediction=original.prediction
    )
    save_network(args.to, found.updates, _dtype(args) or torch.float32, metadata)
    which = "U-Net and text encoder" if found.with_text else "U-Net only"
    print(
        f"{which}: the text encoders differ by at most {found.text_difference:.2g} "
        f"(min-diff {args.min_diff:g})",
        file=sys.stderr,
    )
    missed = sum(found.error.values()) / len(found.error)
    told = _done(
        f"extracted {len(found.updates)} modules; {len(found.equal)} do not differ; {missed:.1%} of the "
        "difference is missed in the mean",
        [args.to],
    )
    return {
        **told,
        "modules": len(found.updates),
        "equal": list(found.equal),
        "text_difference": found.text_difference,
        "with_text": found.with_text,
        "error": dict(found.error),
    }


def split(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    network = read_network(args.file)
    top = max((update.rank or 0) for update in network.updates.values())
    cuts = dict(cut_dylora(network, args.unit))
    paths = {rank: args.to.with_name(f"{args.to.stem}-{rank:04d}{args.to.suffix}") for rank in cuts}
    _check_free(args, list(paths.values()))
    for rank, cut in cuts.items():
        path = paths[rank]
        comment = f"split from DyLoRA {network.name}, rank {top} to {rank}"
        metadata = metadata_of(path, cut.updates, network.family, network.metadata, comment=comment)
        save_network(path, cut.updates, _dtype(args), metadata)
    return _done(f"split {network.name} of rank {top}", list(paths.values()))


def resize(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    check_method(args.method, args.parameter)
    _check_ranks(args, least=1)
    _check_free(args, [args.to])
    network = read_network(args.file)
    conv_rank = args.rank if args.conv_rank is None else args.conv_rank
    resizing = Resizing(args.rank, conv_rank, args.method, args.parameter or 1.0)
    with _Bar("layer", stopped) as watch:
        updates, kept = resized(network, resizing, _device(args), watch)
    how = f"{args.method} {args.parameter:g}, at most rank" if args.parameter else "rank"
    comment = f"resized from {network.name}, {how} {args.rank} (conv {conv_rank})"
    metadata = metadata_of(args.to, updates, network.family, network.metadata, comment=comment)
    save_network(args.to, updates, _dtype(args) or precision_of(network), metadata)
    mean, least = sum(kept.values()) / len(kept), min(kept, key=lambda name: kept[name])
    told = f"resized {network.name}: {mean:.1%} of the norm is kept in the mean, {kept[least]:.1%} of {least}"
    ranks = {name: update.rank for name, update in updates.items()}
    return {**_done(told, [args.to]), "ranks": ranks, "kept": kept}


def inspect(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    found = describe(read_network(args.file))
    if not args.layers:
        del found["layers"]
    if not args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return {"file": str(args.file), **found}


class _Bar:
    """A progress bar on standard error, as a context that gives the function to call; Ctrl-C ends it."""

    def __init__(self, unit: str, stopped: Stopped) -> None:
        self._bar = tqdm(unit=unit, file=sys.stderr, dynamic_ncols=True)
        self._stopped = stopped

    def __enter__(self) -> _Bar:
        return self

    def __call__(self, done: int, of: int) -> None:
        if self._stopped():
            raise KeyboardInterrupt
        self._bar.total = of
        self._bar.update(done - self._bar.n)

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _check_free(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise BadInput(f"cannot write {path.name}: expected a name ending in {', '.join(SUFFIXES)}.")
        if path.exists() and not args.overwrite:
            raise BadInput(f"{path} exists; give another name, or --overwrite to replace it.")


def _check_ranks(args: argparse.Namespace, least: int) -> None:
    for option, low in (("rank", least), ("conv_rank", 0 if args.verb == "extract" else 1)):
        rank = getattr(args, option)
        if rank is not None and rank < low:
            raise BadInput(f"{option.replace('_', '-')}: got {rank}, expected at least {low}.")


def _check_clamp(args: argparse.Namespace) -> None:
    if not 0 < args.clamp <= 1:
        raise BadInput(f"clamp: got {args.clamp:g}, expected a quantile above 0 and up to 1.")


def _dtype(args: argparse.Namespace) -> torch.dtype | None:
    return PRECISIONS[args.save_precision] if args.save_precision else None


def _device(args: argparse.Namespace) -> torch.device:
    try:
        return torch.zeros(1, device=args.device).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {args.device} cannot be used: {str(error).splitlines()[0]}") from error


def _done(told: str, written: Sequence[Path]) -> dict[str, Any]:
    print(f"{told}; wrote {', '.join(map(str, written))}", file=sys.stderr)
    return {"status": "done", "written": [str(path) for path in written]}
