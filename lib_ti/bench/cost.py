"""How long must a job be until its words come close to the model's own?

The length is in image passes: pictures put through the U-Net, forward and backward, which is steps x batch x
accumulation x passes of the U-Net a picture, and what finding the start took. A length is judged by a job of
that length, for a schedule follows it: the first steps of a long job are worth less than a short job.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib_ti.bench.quality import Exam, Scores, judge_ceiling, judge_words, lesson, read_words
from lib_ti.hosts.base import Host
from lib_ti.job_run import Outcome, copies_of
from lib_ti.jobs import folders_under, start
from lib_ti.methods.dreamartist_settings import DreamArtistSettings
from lib_ti.methods.guidance import is_plain, parse_guidance
from lib_ti.methods.kind import JobSettings, Product
from lib_ti.methods.registry import kind_of, read_settings
from lib_ti.tinyworld.concepts import Concept
from lib_ti.tinyworld.judge import Judge

REACH = 0.9  # share of the ceiling
# What the WebUI's own trainer does, with its default rate. The rate is constant, so a copy on the way is
# what a job of that length ends with.
WEBUI = {
    "batch_size": 1,
    "accumulation": 1,
    "learning_rate": "0.005",
    "weighting": "none",
    "ema": 0.0,
    "init": "text",
}

Ceiling = tuple[list[bool], list[bool]]


@dataclass(frozen=True)
class Point:
    """What the words of a job of so many image passes are worth."""

    passes: float
    plain: Scores
    edited: Scores

    def ratio(self, rows: np.ndarray | None = None) -> float:
        """Mean of success and editability, each over its ceiling; of the pictures ``rows``, or of all."""
        return (self.plain.ratio(rows) + self.edited.ratio(rows)) / 2


@dataclass(frozen=True)
class Course:
    """(image passes, ratio) of a recipe's jobs, the shortest first."""

    jobs: Sequence[tuple[float, float]]

    @classmethod
    def mean(cls, courses: Sequence[Course]) -> Course:
        """Of jobs of the same lengths on several concepts."""
        passes, ratios = np.mean([course.jobs for course in courses], axis=0).T
        return cls(list(zip(passes.tolist(), ratios.tolist(), strict=True)))

    @property
    def first(self) -> float | None:
        """Image passes of the shortest job that comes to ``REACH``; None: none does."""
        good = [ratio >= REACH for _, ratio in self.jobs]
        return self._crossing(good.index(True)) if any(good) else None

    @property
    def for_good(self) -> float | None:
        """The same of the shortest job from which on every longer one does, too."""
        poor = [i for i, (_, ratio) in enumerate(self.jobs) if ratio < REACH]
        place = poor[-1] + 1 if poor else 0
        return self._crossing(place) if place < len(self.jobs) else None

    def _crossing(self, place: int) -> float:
        """Between that job and the one before it, linear in the logarithm of the passes."""
        passes, ratio = self.jobs[place]
        if place == 0:
            return passes
        before, poor = self.jobs[place - 1]
        return before * (passes / before) ** ((REACH - poor) / (ratio - poor))

    def as_json(self) -> dict[str, Any]:
        return {
            "first": _rounded(self.first),
            "for_good": _rounded(self.for_good),
            "jobs": [[round(passes), round(ratio, 4)] for passes, ratio in self.jobs],
        }


@dataclass(frozen=True)
class ConceptCost:
    """Of one concept what the recipe and the WebUI's cost."""

    concept: Concept
    ours: Course
    webui: Course

    def ratio(self, measure: str) -> float:
        """Ours over theirs, "first" or "for_good"; what never comes there costs the longest job."""
        cost = [getattr(course, measure) or course.jobs[-1][0] for course in (self.ours, self.webui)]
        return cost[0] / cost[1]

    def as_json(self) -> dict[str, Any]:
        return {
            "concept": self.concept.name,
            "recipe": self.ours.as_json(),
            "webui": self.webui.as_json(),
        }


def _rounded(passes: float | None) -> int | None:
    return None if passes is None else round(passes)


def unet_passes(settings: JobSettings) -> int:
    """How often the U-Net sees a picture in a step: twice where guidance is in the loss."""
    guided = isinstance(settings, DreamArtistSettings) and not is_plain(parse_guidance(settings.guidance))
    return 2 if guided else 1


@dataclass(frozen=True)
class Lesson:
    """A concept to be taught again and again: its pictures lie in ``data``."""

    host: Host
    judge: Judge
    exam: Exam
    ceiling: Ceiling
    data: Path
    stopped: Callable[[], bool]

    def settings(self, values: Mapping[str, Any]) -> JobSettings:
        return read_settings(lesson(self.exam, self.data / "pictures", **{"save_every": 1_000_000, **values}))

    def train(self, settings: JobSettings) -> Outcome:
        folders = folders_under(self.data)
        return start(
            self.host,
            settings,
            folders=folders,
            model="builtin",
            report=lambda event: None,
            stopped=self.stopped,
        )

    def point(self, settings: JobSettings, steps: int, files: Mapping[Product, Path]) -> Point:
        """What the words in ``files`` are worth after so many steps."""
        words = kind_of(settings).words(settings)
        judged = judge_words(self.host, self.judge, self.exam, words, read_words(files), self.ceiling)[1:]
        looked = settings.steps_before(len(self.exam.scenes))
        a_step = settings.batch_size * settings.accumulation * unet_passes(settings)
        return Point((looked + steps) * a_step, *judged)


def teach(host: Host, judge: Judge, exam: Exam, folder: Path, stopped: Callable[[], bool]) -> Lesson:
    """A lesson on the exam's pictures, which are written below ``folder``."""
    data = folder / exam.concept.name.replace(" ", "-")
    exam.write_pictures(data / "pictures")
    return Lesson(host, judge, exam, judge_ceiling(host, judge, exam), data, stopped)


def _course_of_jobs(lesson: Lesson, settings: JobSettings, lengths: Sequence[int]) -> Course:
    """A job of each length, in image passes, as near as its steps come to it."""
    a_step = settings.batch_size * settings.accumulation * unet_passes(settings)
    jobs = []
    for length in lengths:
        job = replace(settings, steps=max(1, round(length / a_step)))
        outcome = lesson.train(job)
        if lesson.stopped():
            break
        point = lesson.point(job, job.steps, outcome.files)
        jobs.append((point.passes, point.ratio()))
    return Course(jobs)


def _course_of_copies(lesson: Lesson, settings: JobSettings, lengths: Sequence[int]) -> Course:
    """One job of the greatest length at a constant rate, judged on the way."""
    every = math.gcd(*lengths)
    job = replace(settings, steps=max(lengths), copy_every=every)
    outcome, products = lesson.train(job), kind_of(job).products(job)
    jobs = []
    for length in lengths:
        if lesson.stopped():
            break
        point = lesson.point(job, length, copies_of(outcome.job, products, length))
        jobs.append((point.passes, point.ratio()))
    return Course(jobs)


def bench_cost(
    host: Host,
    judge: Judge,
    concepts: Sequence[Concept],
    *,
    pictures: int,
    images: int,
    lengths: Sequence[int],
    exam_seed: int,
    stopped: Callable[[], bool],
    on_result: Callable[[ConceptCost], None],
    **settings: Any,
) -> dict[str, Any]:
    """Teach each concept by jobs of ``lengths`` image passes, by the recipe of ``settings`` and by the
    WebUI's, whose words, vectors and seed are ours."""
    results: list[ConceptCost] = []
    with tempfile.TemporaryDirectory() as folder:
        for concept in concepts:
            exam = Exam(concept, pictures, images, exam_seed)
            taught = teach(host, judge, exam, Path(folder), stopped)
            ours = taught.settings(settings)
            shared = {name: getattr(ours, name) for name in ("init_text", "vectors", "seed")}
            theirs = taught.settings({**WEBUI, **shared})
            courses = _course_of_jobs(taught, ours, lengths), _course_of_copies(taught, theirs, lengths)
            if stopped():
                break
            results.append(ConceptCost(concept, *courses))
            on_result(results[-1])
    return {"status": "stopped" if stopped() else "done", **_summary(results)}


def _summary(results: Sequence[ConceptCost]) -> dict[str, Any]:
    """The geometric means of the ratios, and who never came there; and the mean course of all concepts, in
    which the chance of single pictures averages out."""
    told: dict[str, Any] = {}
    if results:
        told["mean"] = {
            "recipe": Course.mean([result.ours for result in results]).as_json(),
            "webui": Course.mean([result.webui for result in results]).as_json(),
        }
    for measure in ("first", "for_good") if results else ():
        logs = [math.log(result.ratio(measure)) for result in results]
        told[measure] = {
            "ratio": round(math.exp(float(np.mean(logs))), 4),
            "not_reached": {
                name: [
                    result.concept.name
                    for result in results
                    if getattr(getattr(result, course), measure) is None
                ]
                for name, course in (("recipe", "ours"), ("webui", "webui"))
            },
        }
    return {**told, "concepts": [result.as_json() for result in results]}
