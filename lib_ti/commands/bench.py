"""``ti-studio bench``: the measurements behind every figure the project states."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
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
from lib_ti.bench.startup import FORMS, bench_startup
from lib_ti.bench.step import bench_step
from lib_ti.bench.stop_rules import bench_stop_rules
from lib_ti.bench.webui_networks import bench_networks
from lib_ti.bench.webui_step import bench_webui
from lib_ti.bench.world import bench_world
from lib_ti.commands.shared import Stopped, given_settings
from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.precision import DTYPES
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import Event
from lib_ti.methods.registry import DEFAULT
from lib_ti.report import Row, contact_sheet, save_png
from lib_ti.tinyworld.concepts import Concept, parse_concept
from lib_ti.tinyworld.judge import Judge

_SHEET_PICTURES = 8  # of each concept on a contact sheet


def world(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    if not 1 <= args.images <= 100_000:
        raise BadInput(f"images: got {args.images}, expected 1 to 100000.")
    return _shown(
        bench_world(
            StandaloneHost.load(args.model, args.device, 1, args.prediction), Judge(), args.images, args.seed
        ),
        args,
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
        StandaloneHost.load(args.model, args.device, 1, args.prediction),
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
        StandaloneHost.load(args.model, args.device, 1, args.prediction),
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


def startup(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    """Exits with 1 where a line takes more than it may."""
    _at_least(args, runs=1)
    told = bench_startup(args.runs)
    if slow := [form for form, limit in FORMS.items() if told["seconds"][form] > limit]:
        raise JobFailed(
            f"{', '.join(slow)} took too long: {told['seconds']}, expected at most {dict(FORMS)}."
        )
    return _shown(told, args)


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
