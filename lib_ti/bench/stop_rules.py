"""Which copy does a stop rule keep, and what is it worth beside the best one?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lib_ti.bench.cost import Lesson, Point, teach
from lib_ti.bench.quality import Exam
from lib_ti.core.evaluation import Evaluations, Row, StopRule
from lib_ti.hosts.base import Host
from lib_ti.job_run import copies_of
from lib_ti.methods.kind import JobSettings
from lib_ti.methods.registry import kind_of
from lib_ti.tinyworld.concepts import Concept
from lib_ti.tinyworld.judge import Judge

RULES = tuple(rule for rule in get_args(StopRule) if rule != "none")


@dataclass(frozen=True)
class Watched:
    """A job that went to its end: its copies by their steps, and the losses of its fixed batch."""

    settings: JobSettings
    copies: dict[int, Point]
    evaluations: Sequence[Row]


def judge_rules(watched: Watched) -> dict[str, dict[str, Any]]:
    """Of each stop rule: where it ends the job, which step it keeps, and what that step's score is of the
    best copy's.

    ``of_best`` takes the best on the very pictures it is scored on, so luck counts for it; ``of_best_apart``
    chooses the best by half of the pictures and compares on the other half, both ways round.
    """
    best = max(watched.copies, key=lambda step: watched.copies[step].ratio())
    told = {}
    for rule in RULES:
        ended, kept = _kept_by(rule, watched)
        point = watched.copies[kept]
        told[rule] = {
            "ended": ended,
            "kept": kept,
            "score": round(point.ratio(), 4),
            "best": best,
            "of_best": round(_share(point.ratio(), watched.copies[best].ratio()), 4),
            "of_best_apart": round(_of_best_apart(point, list(watched.copies.values())), 4),
        }
    return told


def _kept_by(rule: StopRule, watched: Watched) -> tuple[int, int]:
    """The step at which the rule ends the job, and the one it keeps."""
    seen = Evaluations.of(replace(watched.settings, stop_rule=rule))
    for step, loss in watched.evaluations:
        seen.add(step, loss, {})
        if seen.settled:
            break
    return seen.rows[-1][0], seen.best_row[0]


def _of_best_apart(kept: Point, copies: Sequence[Point]) -> float:
    pictures = np.arange(len(kept.plain.learned))
    shares = []
    for half in (0, 1):
        chosen_by, scored_on = pictures[half::2], pictures[1 - half :: 2]
        best = copies[int(np.argmax([copy.ratio(chosen_by) for copy in copies]))]
        shares.append(_share(kept.ratio(scored_on), best.ratio(scored_on)))
    return float(np.mean(shares))


def _share(score: float, best: float) -> float:
    """Where nothing was right at all, nothing better could have been kept."""
    return score / best if best else 1.0


def bench_stop_rules(
    host: Host,
    judge: Judge,
    concepts: Sequence[Concept],
    *,
    pictures: int,
    images: int,
    every: int,
    exam_seed: int,
    stopped: Callable[[], bool],
    on_result: Callable[[dict[str, Any]], None],
    **settings: Any,
) -> dict[str, Any]:
    """Train a job on each concept to its end, judge a copy every ``every`` steps, and the rules by them."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for concept in concepts:
            taught = teach(host, judge, Exam(concept, pictures, images, exam_seed), Path(folder), stopped)
            watched = _watch(taught, {**settings, "copy_every": every, "evaluate_every": every})
            if stopped():
                break
            curve = [[step, round(point.ratio(), 4)] for step, point in watched.copies.items()]
            results.append({"concept": concept.name, "curve": curve, "rules": judge_rules(watched)})
            on_result(results[-1])
    return {"status": "stopped" if stopped() else "done", "rules": _means(results), "concepts": results}


def _watch(taught: Lesson, settings: dict[str, Any]) -> Watched:
    job = taught.settings({**settings, "stop_rule": "none"})
    outcome, products = taught.train(job), kind_of(job).products(job)
    steps = [step for step, _ in outcome.job.evaluations() if step]
    copies = {}
    for step in steps:
        if taught.stopped():
            break
        copies[step] = taught.point(job, step, copies_of(outcome.job, products, step))
    return Watched(job, copies, outcome.job.evaluations())


def _means(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    told: dict[str, dict[str, float]] = {}
    for rule in RULES if results else ():
        shares = {
            name: [result["rules"][rule][name] for result in results] for name in ("of_best", "of_best_apart")
        }
        told[rule] = {name: round(float(np.mean(values)), 4) for name, values in shares.items()}
        told[rule]["least_of_best"] = min(shares["of_best"])
    return told
