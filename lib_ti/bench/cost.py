"""What does a recipe cost until its vectors come close to the model's own words?

The cost is in image passes: pictures put through the U-Net, forward and backward, which is steps x batch x
accumulation x passes of the U-Net a picture, and what finding the start took. It is read off where the score
of the copies kept on the way first reaches a share of the ceiling. The same copies judge the stop rules.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lib_ti.bench.quality import Exam, Scores, judge_ceiling, judge_words, lesson, read_words
from lib_ti.core.evaluation import Evaluations, Row, StopRule
from lib_ti.core.loop import Progress
from lib_ti.hosts.base import Embeddings, Host
from lib_ti.job_run import Event, Outcome, copies_of, saved_steps, started_from
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.dreamartist import DreamArtistSettings
from lib_ti.methods.guidance import is_plain, parse_guidance
from lib_ti.methods.kind import JobSettings
from lib_ti.methods.registry import kind_of, read_settings
from lib_ti.tinyworld.concepts import Concept
from lib_ti.tinyworld.judge import Judge

REACH = 0.9  # share of the ceiling
# What the WebUI's own trainer does, with its default rate.
WEBUI = {
    "batch_size": 1,
    "accumulation": 1,
    "learning_rate": "0.005",
    "weighting": "none",
    "ema": 0.0,
    "init": "text",
}
RULES = tuple(rule for rule in get_args(StopRule) if rule != "none")


@dataclass(frozen=True)
class Copy:
    """What the vectors of a step are worth."""

    step: int
    plain: Scores
    edited: Scores

    def ratio(self, rows: np.ndarray | None = None) -> float:
        """Mean of success and editability, each over its ceiling; of the pictures ``rows``, or of all."""
        return (self.plain.ratio(rows) + self.edited.ratio(rows)) / 2


@dataclass(frozen=True)
class Curve:
    """A job's copies in the order of their steps, the start first, as far as they were judged."""

    settings: JobSettings
    copies: Sequence[Copy]
    evaluations: Sequence[Row] = ()  # losses of the fixed batch, where they were taken
    start_passes: int = 0  # what finding the start cost

    @property
    def passes_a_step(self) -> int:
        return self.settings.batch_size * self.settings.accumulation * unet_passes(self.settings)

    @property
    def reached_at(self) -> float | None:
        """The step at which the ratio first reaches ``REACH``, linear between copies; None: at none."""
        for before, after in zip(self.copies, self.copies[1:], strict=False):
            low, high = before.ratio(), after.ratio()
            if max(low, high) >= REACH:
                share = 0.0 if low >= REACH else (REACH - low) / (high - low)
                return before.step + share * (after.step - before.step)
        return None

    @property
    def cost(self) -> float:
        """Image passes until there; those of the whole length where it is not reached."""
        reached = self.reached_at
        # A job has at least one step: a start that is good already costs that.
        steps = self.copies[-1].step if reached is None else max(1.0, reached)
        return self.start_passes + steps * self.passes_a_step

    def as_json(self) -> dict[str, Any]:
        return {
            "passes": round(self.cost),
            "reached": self.reached_at is not None,
            "curve": [[copy.step, round(copy.ratio(), 4)] for copy in self.copies],
        }


@dataclass(frozen=True)
class ConceptCost:
    """Of one concept what the recipe and the WebUI's cost."""

    concept: Concept
    ours: Curve
    webui: Curve

    @property
    def ratio(self) -> float:
        return self.ours.cost / self.webui.cost

    def as_json(self) -> dict[str, Any]:
        told = {
            "concept": self.concept.name,
            "ratio": round(self.ratio, 4),
            "recipe": self.ours.as_json(),
            "webui": self.webui.as_json(),
        }
        return told | ({"stop_rules": judge_rules(self.ours)} if self.ours.evaluations else {})


def unet_passes(settings: JobSettings) -> int:
    """How often the U-Net sees a picture in a step: twice where guidance is in the loss."""
    guided = isinstance(settings, DreamArtistSettings) and not is_plain(parse_guidance(settings.guidance))
    return 2 if guided else 1


def judge_rules(curve: Curve) -> dict[str, dict[str, Any]]:
    """Of each stop rule: where it ends the job, which step it keeps, and what that step's score is of the
    best copy's.

    ``of_best`` takes the best on the very pictures it is scored on, so luck counts for it; ``of_best_apart``
    chooses the best by half of the pictures and compares on the other half, both ways round.
    """
    trained = curve.copies[1:]
    best = max(trained, key=Copy.ratio)
    told = {}
    for rule in RULES:
        ended, kept = _kept_by(rule, curve)
        copy = next(copy for copy in trained if copy.step == kept)
        told[rule] = {
            "ended": ended,
            "kept": kept,
            "score": round(copy.ratio(), 4),
            "best": best.step,
            "of_best": round(_share(copy.ratio(), best.ratio()), 4),
            "of_best_apart": round(_of_best_apart(copy, trained), 4),
        }
    return told


def _kept_by(rule: StopRule, curve: Curve) -> tuple[int, int]:
    """The step at which the rule ends the job, and the one it keeps."""
    seen = Evaluations.of(replace(curve.settings, stop_rule=rule))
    for step, loss in curve.evaluations:
        seen.add(step, loss, {})
        if seen.settled:
            break
    return seen.rows[-1][0], seen.best_row[0]


def _of_best_apart(kept: Copy, copies: Sequence[Copy]) -> float:
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


def pieces(host: Host, settings: JobSettings, data: Path, stopped: Callable[[], bool]) -> Iterator[Outcome]:
    """Train a job from copy to copy; what is not asked for is not trained."""
    folders, reached, copied = folders_under(data), 0, settings.copy_every

    def watch(event: Event) -> None:
        nonlocal reached
        if isinstance(event, Progress):
            reached = event.step

    def piece_done() -> bool:
        return stopped() or reached >= copied

    outcome = start(host, settings, folders=folders, model="builtin", report=watch, stopped=piece_done)
    yield outcome
    while outcome.status == "stopped" and not stopped():
        copied += settings.copy_every
        outcome = resume(host, outcome.job, folders=folders, report=watch, stopped=piece_done)
        yield outcome


def measure_curve(
    host: Host,
    judge: Judge,
    exam: Exam,
    ceiling: tuple[list[bool], list[bool]],
    settings: JobSettings,
    data: Path,
    stopped: Callable[[], bool],
    *,
    to_the_end: bool,
) -> Curve:
    """Train and judge copy after copy, until ``REACH`` is reached or to the end."""
    kind, copies = kind_of(settings), list[Copy]()
    words = kind.words(settings)
    before = settings.steps_before(len(exam.scenes)) * settings.batch_size * settings.accumulation

    def judged(step: int, vectors: Embeddings) -> Copy:
        return Copy(step, *judge_words(host, judge, exam, words, vectors, ceiling)[1:])

    evaluations: list[Row] = []
    for outcome in pieces(host, settings, data, stopped):
        if stopped():
            break
        job = outcome.job
        if not copies and (began := started_from(job, settings)):
            copies.append(judged(0, began))
        # A piece ends a step after its copy.
        wanted = [s for s in saved_steps(job) if s % settings.copy_every == 0 or s == settings.steps]
        for step in wanted[len(copies) - 1 :]:
            copies.append(judged(step, read_words(copies_of(job, kind.products(settings), step))))
        evaluations = job.evaluations()
        if not to_the_end and Curve(settings, copies).reached_at is not None:
            break
    return Curve(settings, copies, evaluations, before * unet_passes(settings))


def bench_cost(
    host: Host,
    judge: Judge,
    concepts: Sequence[Concept],
    *,
    pictures: int,
    images: int,
    every: int,
    webui_steps: int,
    stop_rules: bool,
    exam_seed: int,
    stopped: Callable[[], bool],
    on_result: Callable[[ConceptCost], None],
    **settings: Any,
) -> dict[str, Any]:
    """Teach each concept by the recipe of ``settings`` and by the WebUI's, a copy judged every ``every``
    steps of the first and every ``every`` times its pictures a step of the second.

    ``webui_steps``: the length of the WebUI's recipe. ``stop_rules``: train and judge the first to its end,
    and judge the stop rules by it.
    """
    results: list[ConceptCost] = []
    evaluating = {"evaluate_every": every} if stop_rules else {}
    with tempfile.TemporaryDirectory() as folder:
        for concept in concepts:
            exam = Exam(concept, pictures, images, exam_seed)
            data = Path(folder) / concept.name.replace(" ", "-")
            exam.write_pictures(data / "pictures")
            ours = _settings(exam, data, {**settings, **evaluating, "copy_every": every, "stop_rule": "none"})
            ceiling = judge_ceiling(host, judge, exam)
            curves = [
                measure_curve(host, judge, exam, ceiling, recipe, data, stopped, to_the_end=to_the_end)
                for recipe, to_the_end in (
                    (ours, stop_rules),
                    (_webui_recipe(exam, data, ours, webui_steps), False),
                )
            ]
            if stopped():
                break
            results.append(ConceptCost(concept, *curves))
            on_result(results[-1])
    return {"status": "stopped" if stopped() else "done", **_summary(results)}


def _webui_recipe(exam: Exam, data: Path, ours: JobSettings, steps: int) -> JobSettings:
    """Judged as often as ours in image passes; words, vectors and seed are ours."""
    every = ours.copy_every * ours.batch_size * ours.accumulation
    shared = {name: getattr(ours, name) for name in ("init_text", "vectors", "seed")}
    return _settings(exam, data, {**WEBUI, **shared, "steps": steps, "copy_every": every})


def _settings(exam: Exam, data: Path, values: Mapping[str, Any]) -> JobSettings:
    return read_settings(lesson(exam, data / "pictures", **{"save_every": 1_000_000, **values}))


def _summary(results: Sequence[ConceptCost]) -> dict[str, Any]:
    if not results:
        return {"concepts": []}
    rules: dict[str, dict[str, float]] = {}
    told = [result.as_json() for result in results]
    if "stop_rules" in told[0]:
        for rule in RULES:
            shares = {
                name: [one["stop_rules"][rule][name] for one in told] for name in ("of_best", "of_best_apart")
            }
            rules[rule] = {name: round(float(np.mean(values)), 4) for name, values in shares.items()}
            rules[rule]["least_of_best"] = min(shares["of_best"])
    return {
        "ratio": round(math.exp(float(np.mean([math.log(result.ratio) for result in results]))), 4),
        "not_reached": {
            "recipe": [result.concept.name for result in results if result.ours.reached_at is None],
            "webui": [result.concept.name for result in results if result.webui.reached_at is None],
        },
        "concepts": told,
        **({"stop_rules": rules} if rules else {}),
    }
