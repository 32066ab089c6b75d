"""``ti-studio bench``: the measurements behind every figure the project states."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib_ti.bench.cards import bench_cards
from lib_ti.bench.cost import bench_cost
from lib_ti.bench.fault_runs import Finding
from lib_ti.bench.faults import bench_faults
from lib_ti.bench.fuzz import bench_fuzz, table
from lib_ti.bench.lora import bench_lora
from lib_ti.bench.parity import bench_parity
from lib_ti.bench.quality import ConceptResult, bench_quality, choose_concepts
from lib_ti.bench.step import bench_step
from lib_ti.bench.stop_rules import bench_stop_rules
from lib_ti.bench.webui_networks import bench_networks
from lib_ti.bench.webui_step import bench_webui
from lib_ti.bench.world import CFG_SCALE, bench_world
from lib_ti.commands.shared import Run, Stopped, given_settings, settings_options, shared_options
from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.precision import DTYPES
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import Event
from lib_ti.methods.registry import DEFAULT
from lib_ti.report import Row, contact_sheet, save_png
from lib_ti.tinyworld.concepts import Concept, parse_concept
from lib_ti.tinyworld.judge import Judge

_SHEET_PICTURES = 8  # of each concept on a contact sheet


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "bench", help="measure: the built-in model, training quality, cost of a step"
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=type(parser))

    world_ = kinds.add_parser("world", help="does the built-in model draw what prompts ask for?")
    shared_options(world_, world)
    world_.add_argument("--images", type=int, default=256, help="pictures judged (default: 256)")
    world_.add_argument("--seed", type=int, default=0)

    quality_ = kinds.add_parser(
        "quality", help="how close does a trained embedding come to the model's own words?"
    )
    shared_options(quality_, quality)
    quality_.add_argument(
        "--concepts",
        default="",
        help="comma-separated, such as star,purple moon (default: drawn by the seed)",
    )
    quality_.add_argument(
        "--pictures",
        "--images",
        dest="pictures",
        type=int,
        default=8,
        help="training pictures of a concept (default: 8)",
    )
    quality_.add_argument(
        "--drawn-at",
        type=float,
        default=CFG_SCALE,
        help=f"CFG scale of the pictures with the new word (default: {CFG_SCALE:g}, as for the ceiling)",
    )
    quality_.add_argument("--judged", type=int, default=64, help="pictures judged of each kind (default: 64)")
    quality_.add_argument(
        "--sheet", type=Path, default=None, help="a PNG that shows each concept: taught from, and drawn after"
    )
    settings_options(quality_, leave_out=("images", "name"))

    cost_ = kinds.add_parser(
        "cost", help="image passes of a job that comes to 0.9 of the ceiling, against the WebUI's own recipe"
    )
    _taught_options(cost_, cost, leave_out=("steps", "epochs"))
    cost_.add_argument(
        "--lengths",
        default="25,50,100,200,400,800,1600",
        help="image passes of the jobs that are judged (default: %(default)s)",
    )

    rules_ = kinds.add_parser("stop-rules", help="what dvar and plateau would have kept of a whole job")
    _taught_options(rules_, stop_rules, leave_out=("evaluate_every_epochs",))
    rules_.add_argument("--every", type=int, default=50, help="steps between judged copies (default: 50)")

    step_ = kinds.add_parser("step", help="what an optimizer step costs against its floor")
    shared_options(step_, step, model=False)
    step_.add_argument("--arch", choices=("sd15", "tiny"), default="tiny")
    step_.add_argument("--size", type=int, default=0, help="pixels (default: 64 for tiny, 256 for sd15)")
    step_.add_argument(
        "--pairs", type=int, default=20, help="at least 20 for a figure that is quoted (default: 20)"
    )
    step_.add_argument("--device", default="cpu")
    step_.add_argument("--checkpointing", action="store_true", help="of the floor too")

    webui_ = kinds.add_parser(
        "webui", help="our step against the trainer that an installed AUTOMATIC1111 WebUI brings"
    )
    shared_options(webui_, webui, model=False)
    webui_.add_argument(
        "--arch", choices=("sd15", "tiny"), default="sd15", help="sd15 takes 12 GB of memory and minutes"
    )
    webui_.add_argument("--size", type=int, default=0, help="pixels (default: 64 for tiny, 256 for sd15)")
    webui_.add_argument("--pairs", type=int, default=8, help="steps of each, in turn (default: 8)")

    networks_ = kinds.add_parser(
        "networks", help="a network that a prompt calls, by an installed WebUI's own loader and by ours"
    )
    shared_options(networks_, networks, model=False)
    networks_.add_argument("--arch", choices=("sd15", "tiny"), default="sd15", help="(default: sd15)")
    networks_.add_argument("--size", type=int, default=0, help="pixels (default: 64 for tiny, 256 for sd15)")
    networks_.add_argument("--steps", type=int, default=20, help="of sampling (default: 20)")
    networks_.add_argument("--rounds", type=int, default=5, help="pictures of each kind (default: 5)")
    networks_.add_argument("--rank", type=int, default=16, help="(default: 16)")

    cards_ = kinds.add_parser(
        "cards", help="the time to see that a picture is no card, and the bytes that a vector takes in one"
    )
    shared_options(cards_, cards, model=False)
    cards_.add_argument("--side", type=int, default=2048, help="of the pictures, pixels (default: 2048)")
    cards_.add_argument("--repeats", type=int, default=15, help="of each measurement (default: 15)")

    lora_ = kinds.add_parser(
        "lora", help="merging a LoRA into a checkpoint of SD 1.5's shapes, and extracting it: time and memory"
    )
    shared_options(lora_, lora, model=False)
    lora_.add_argument("--rank", type=int, default=16, help="(default: 16)")
    lora_.add_argument(
        "--conv", action=argparse.BooleanOptionalAction, default=True, help="extract 3x3 convolutions, too"
    )
    lora_.add_argument("--precision", choices=tuple(DTYPES), default="fp16", help="(default: fp16)")
    lora_.add_argument("--device", default="cpu")

    fuzz_ = kinds.add_parser(
        "fuzz", help="mutated files and texts by the thousand: does any reader crash, hang or run something?"
    )
    shared_options(fuzz_, fuzz, model=False)
    fuzz_.add_argument("--inputs", type=int, default=5000, help="of each reader (default: 5000)")
    fuzz_.add_argument("--seed", type=int, default=0)
    fuzz_.add_argument("--reader", action="append", default=[], help="only this one; may be given again")
    fuzz_.add_argument("--keep", type=Path, help="a folder for the inputs with which something is wrong")

    parity_ = kinds.add_parser(
        "parity", help="does a job in an installed WebUI give the vectors of the command line?"
    )
    shared_options(parity_, parity, model=False)
    parity_.add_argument("--concept", default="star", help="(default: star)")
    parity_.add_argument("--steps", type=int, default=200, help="(default: 200)")
    parity_.add_argument("--seed", type=int, default=1)
    parity_.add_argument("--judged", type=int, default=64, help="pictures judged of each kind (default: 64)")

    faults_ = kinds.add_parser(
        "faults", help="full disks, lost pictures, no memory, kills: what short jobs lose by them, and say"
    )
    shared_options(faults_, faults, model=False)
    faults_.add_argument("--kills", type=int, default=50, help="at random moments (default: 50)")
    faults_.add_argument("--seed", type=int, default=1, help="of those moments (default: 1)")
    faults_.add_argument("--at-once", type=int, default=1, help="jobs that run side by side (default: 1)")
    faults_.add_argument("--short", action="store_true", help="one fault of each kind, one method")


def world(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    if not 1 <= args.images <= 100_000:
        raise BadInput(f"images: got {args.images}, expected 1 to 100000.")
    return _shown(
        bench_world(StandaloneHost.load(args.model, args.device), Judge(), args.images, args.seed), args
    )


def quality(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    given = given_settings(args)
    concepts = _concepts(args, given)
    _at_least(args, pictures=1, judged=8, drawn_at=1)

    def quiet(event: Event) -> None:
        pass

    rows = []

    def show(result: ConceptResult) -> None:
        print(json.dumps(result.as_json()), file=sys.stderr, flush=True)
        pictures = [result.training[0], *result.after[: _SHEET_PICTURES - 1]]
        rows.append(Row(result.concept.name, f"taught from the first; {_told(result.as_json())}", pictures))

    measured = bench_quality(
        StandaloneHost.load(args.model, args.device),
        Judge(),
        concepts,
        pictures=args.pictures,
        images=args.judged,
        cfg_scale=args.drawn_at,
        exam_seed=given.get("seed", 1),
        report=quiet,
        stopped=stopped,
        on_result=show,
        **given,
    )
    if args.sheet:
        title = f"{given.get('method', DEFAULT)}, {args.pictures} pictures: {_told(measured)}"
        save_png(contact_sheet(title, rows, cell=96), args.sheet)
    return _shown(measured, args)


def _told(measured: dict[str, Any]) -> str:
    """Beside the ceiling, where the model's own words have one; else as it is."""
    if measured["ratio"] is not None:
        return f"ratio {measured['ratio']:.2f}"
    return f"{measured['success']:.2f} right, in other surroundings {measured['editability']:.2f}"


def cards(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    result = bench_cards(args.side, args.repeats, stopped)
    for name, scan in result["milliseconds"].items():
        told = f"{name}: decoding {scan['decode']:.0f} ms, looking {scan['look']:.2f} ms"
        print(told, file=sys.stderr)
    print(f"bytes a vector: {result['bytes_per_vector']}", file=sys.stderr)
    return result


def cost(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    lengths = [int(length) if length.strip().isdecimal() else 0 for length in args.lengths.split(",")]
    if min(lengths) < 1 or sorted(set(lengths)) != lengths:
        raise BadInput(f"lengths: got {args.lengths!r}, expected rising whole numbers such as 50,100,200.")
    return _taught(args, stopped, bench_cost, lambda result: result.as_json(), lengths=lengths)


def stop_rules(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    _at_least(args, every=1)
    return _taught(args, stopped, bench_stop_rules, lambda result: result, every=args.every)


def _taught_options(parser: argparse.ArgumentParser, run: Run, leave_out: tuple[str, ...]) -> None:
    """Of a bench that teaches concepts again and again."""
    shared_options(parser, run)
    parser.add_argument("--concepts", default="", help="as for quality")
    parser.add_argument("--pictures", type=int, default=8, help="training pictures of a concept (default: 8)")
    parser.add_argument("--judged", type=int, default=64, help="pictures judged of each kind (default: 64)")
    ours = ("images", "name", "copy_every", "evaluate_every", "save_every", "preview_every", "stop_rule")
    settings_options(parser, leave_out=(*ours, *leave_out))


def _taught(
    args: argparse.Namespace,
    stopped: Stopped,
    bench: Callable[..., dict[str, Any]],
    told: Callable[[Any], dict[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """What such a bench says; each concept's result is shown as it comes, as ``told`` makes it."""
    given = given_settings(args)
    concepts = _concepts(args, given)
    _at_least(args, pictures=1, judged=8)

    def show(result: Any) -> None:
        print(json.dumps(told(result)), file=sys.stderr, flush=True)

    measured = bench(
        StandaloneHost.load(args.model, args.device),
        Judge(),
        concepts,
        pictures=args.pictures,
        images=args.judged,
        exam_seed=given.get("seed", 1),
        stopped=stopped,
        on_result=show,
        **more,
        **given,
    )
    return _shown(measured, args)


def step(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    told = bench_step(args.arch, _size(args), _pairs(args), args.device, checkpointing=args.checkpointing)
    return _shown(told, args)


def webui(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    return _shown(bench_webui(args.arch, _size(args), _pairs(args)), args)


def networks(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    _at_least(args, steps=2, rounds=1, rank=1)
    return _shown(bench_networks(args.arch, _size(args), args.steps, args.rounds, args.rank), args)


def lora(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    if args.rank < 1:
        raise BadInput(f"rank: got {args.rank}, expected at least 1.")
    dtype, device = DTYPES[args.precision], torch.device(args.device)
    return _shown(bench_lora(args.rank, dtype, device, conv=args.conv), args)


def fuzz(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    """Exits with 1 where anything is wrong."""
    _at_least(args, inputs=1)
    tallies = bench_fuzz(args.inputs, args.seed, readers=args.reader, keep=args.keep, stopped=stopped)
    if not args.json:
        print(table(tallies))
    wrong = [f"{t.name}, input {i}: {why}" for t in tallies for i, why in t.findings.items()]
    if wrong:
        raise JobFailed(f"{len(wrong)} inputs went wrong.\n" + "\n".join(wrong))
    return {"inputs": sum(t.inputs for t in tallies), "readers": [t.as_json() for t in tallies]}


def parity(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    _at_least(args, steps=1, judged=8)
    return _shown(bench_parity(parse_concept(args.concept), args.steps, args.seed, args.judged), args)


def faults(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    _at_least(args, kills=0, at_once=1)

    def show(finding: Finding) -> None:
        print(finding.as_text(), file=sys.stderr, flush=True)

    return bench_faults(
        args.kills,
        short=args.short,
        seed=args.seed,
        at_once=args.at_once,
        stopped=stopped,
        on_finding=show,
    )


def _concepts(args: argparse.Namespace, given: dict[str, Any]) -> list[Concept]:
    """The concepts named, or drawn by the seed."""
    names = [name.strip() for name in args.concepts.split(",") if name.strip()]
    return choose_concepts(names, given.get("seed", 1))


def _at_least(args: argparse.Namespace, **lowest: float) -> None:
    for name, low in lowest.items():
        if getattr(args, name) < low:
            raise BadInput(f"{name.replace('_', '-')}: got {getattr(args, name)}, expected at least {low}.")


def _size(args: argparse.Namespace) -> int:
    size = args.size or {"sd15": 256, "tiny": 64}[args.arch]
    if size % 64 or not 64 <= size <= 2048:
        raise BadInput(f"size: got {size}, expected a multiple of 64 pixels from 64 to 2048.")
    return size


def _pairs(args: argparse.Namespace) -> int:
    if args.pairs < 2:
        raise BadInput(f"pairs: got {args.pairs}, expected at least 2.")
    return args.pairs


def _shown(result: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    if not args.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    return result
