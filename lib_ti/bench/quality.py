"""How close does a trained embedding come to the model's own words?

A concept's words are hidden, some pictures of it rendered, an embedding trained on them as a user
would, and the judge reads what prompts with it draw. The ceiling is what the model's own words draw
with the same prompts and seeds; of a concept it never met, the known word that a network is called by.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_ti.bench.world import CFG_SCALE, draw, draw_asked
from lib_ti.core.settings import options_of
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.base import Embeddings, Host
from lib_ti.job_run import Event, Outcome, started_from
from lib_ti.jobs import folders_under, start
from lib_ti.methods.kind import Product, Words
from lib_ti.methods.registry import DEFAULT, kind_named, kind_of, read_settings
from lib_ti.networks.attach import attach
from lib_ti.tinyworld.concepts import SPLITS, Concept, parse_concept
from lib_ti.tinyworld.corpus import BENCH_SEED
from lib_ti.tinyworld.judge import Judge
from lib_ti.tinyworld.render import render
from lib_ti.tinyworld.world import ATTRIBUTES, COLOURS, KNOWN, Scene, caption, random_scene

TRIGGER = "zqx-thing"
DEFAULT_CONCEPTS = 6  # drawn from the test split when none are named
# A network has no word of its own, so the prompts that it learns and is judged by call it so. The model is
# narrow: the rates are more than a large one bears.
_OF_NETWORKS = {
    "trigger_word": TRIGGER,
    "learning_rate": "2e-3",
    "text_rate": 1.0,
    # A new shape is decided at the noisiest timesteps.
    "weighting": "x0",
}
HIDDEN_BACKGROUNDS = 2  # colours that no training picture of a concept has behind it


@dataclass(frozen=True)
class Trial:
    """Prompts with the trigger in place of the concept, and what each picture must show.

    ``own``: the same prompts in the model's own words, none where it has none; ``own_asked``: what pictures
    of those must show.
    """

    prompts: list[str]
    asked: list[dict[str, str]]
    own: list[str]
    own_asked: list[dict[str, str]]


@dataclass(frozen=True)
class Scores:
    """A flag a picture: right in everything asked for, by the vectors and by the model's own words."""

    learned: list[bool]
    ceiling: list[bool]

    def ratio(self, rows: np.ndarray | None = None) -> float:
        """Share right over the ceiling's share right, over all pictures or those of ``rows``."""
        learned, ceiling = np.array(self.learned), np.array(self.ceiling)
        if rows is not None:
            learned, ceiling = learned[rows], ceiling[rows]
        return float(learned.mean() / ceiling.mean()) if ceiling.any() else float("nan")


@dataclass(frozen=True)
class ConceptResult:
    """All that was measured of one concept; the pictures are of the plain prompts."""

    concept: Concept
    plain: Scores
    edited: Scores
    untrained: float
    outcome: Outcome
    training: list[Image.Image]
    before: list[Image.Image]
    after: list[Image.Image]

    @property
    def ratio(self) -> float:
        """Mean of success and editability, each over its ceiling."""
        return (self.plain.ratio() + self.edited.ratio()) / 2

    def as_json(self) -> dict[str, Any]:
        return {
            "concept": self.concept.name,
            "ratio": _figure(self.ratio),
            "success": _share(self.plain.learned),
            "success_ceiling": _share(self.plain.ceiling),
            "editability": _share(self.edited.learned),
            "editability_ceiling": _share(self.edited.ceiling),
            "untrained": round(self.untrained, 4),
            "steps": self.outcome.step,
            "seconds": round(self.outcome.seconds, 1),
        }


def _share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4)


def _figure(value: float) -> float | None:
    """For JSON, which has no nan; a ratio is nan where the model's own words draw nothing right."""
    return None if math.isnan(value) else round(float(value), 4)


class Exam:
    """One concept: its training pictures and its test prompts, all from one seed."""

    def __init__(
        self,
        concept: Concept,
        pictures: int,
        images: int,
        seed: int,
        cfg_scale: float = CFG_SCALE,
        trigger: str = TRIGGER,
    ) -> None:
        """``cfg_scale``: at which pictures with the new word are drawn; the ceiling has its own. ``trigger``:
        what prompts call the concept by."""
        self.concept = concept
        self.trigger = trigger
        self.cfg_scale = cfg_scale
        self.seed = BENCH_SEED + seed * 10_000
        # By the name, not by hash(): the same on every run.
        rng = np.random.default_rng([self.seed, *concept.name.encode()])
        free = [c for c in COLOURS if c != concept.attributes.get("colour")]
        hidden = tuple(free[i] for i in rng.permutation(len(free))[:HIDDEN_BACKGROUNDS])
        shown = tuple(c for c in COLOURS if c not in hidden)
        self.scenes = [self._scene(rng, shown) for _ in range(pictures)]
        self.captions = [self._caption(scene, rng) for scene in self.scenes]
        self.plain = self._trial(rng, shown, frozenset(), images)
        self.edited = self._trial(rng, hidden, frozenset({"background"}), images)

    def _scene(self, rng: np.random.Generator, backgrounds: tuple[str, ...]) -> Scene:
        return random_scene(rng, {**KNOWN, "background": backgrounds}, **self.concept.attributes)

    def _caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """What a careful user writes beside a picture: all that is not the concept."""
        named = frozenset(ATTRIBUTES) | {"position"}
        return caption(scene, rng, named, self.concept.words("[name]"))

    def _trial(
        self, rng: np.random.Generator, backgrounds: tuple[str, ...], always: frozenset[str], images: int
    ) -> Trial:
        trial = Trial([], [], [], [])
        standing = self.concept.own(self.trigger)
        for _ in range(images):
            scene = self._scene(rng, backgrounds)
            named = draw_asked(rng, always | {"shape"} | self.concept.attributes.keys())
            form = int(rng.integers(2**31))
            trial.prompts.append(
                caption(scene, np.random.default_rng(form), named, self.concept.words(self.trigger))
            )
            trial.asked.append({name: getattr(scene, name) for name in named})
            if standing is not None:
                trial.own.append(caption(scene, np.random.default_rng(form), named, standing))
                trial.own_asked.append({**trial.asked[-1], **standing})
        return trial

    def write_pictures(self, folder: Path) -> list[Image.Image]:
        """The training pictures with their captions, as a user's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [render(scene) for scene in self.scenes]
        for i, (picture, text) in enumerate(zip(pictures, self.captions, strict=True)):
            picture.save(folder / f"{i:02d}.png")
            (folder / f"{i:02d}.txt").write_text(text, encoding="utf-8")
        return pictures


def lesson(exam: Exam, folder: Path, **settings: Any) -> dict[str, Any]:
    """The settings of a job on the exam's pictures, which lie in ``folder``."""
    kind = kind_named(settings.get("method", DEFAULT))
    return {
        **(_OF_NETWORKS if "trigger_word" in options_of(kind.settings) else {}),
        "name": TRIGGER,
        "images": str(folder),
        "template": "captions",
        # The default step, its four pictures in one pass: the same gradient, sooner.
        "batch_size": 4,
        "accumulation": 1,
        "init_text": exam.concept.init_text,
        "overwrite": True,
        "preview_every": 0,
        "card": False,
        **settings,
    }


def train_and_judge(
    host: Host,
    judge: Judge,
    exam: Exam,
    data: Path,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
    **settings: Any,
) -> ConceptResult:
    """Train on the exam's pictures through the same door as every user's job, then judge."""
    folder = data / "pictures" / exam.concept.name.replace(" ", "-")
    training = exam.write_pictures(folder)
    chosen = read_settings(lesson(exam, folder, **settings))
    kind = kind_of(chosen)
    words = kind.words(chosen)
    outcome = start(
        host, chosen, folders=folders_under(data), model="builtin", report=report, stopped=stopped
    )
    with host.lend():
        began = started_from(outcome.job, chosen) or kind.start(host, chosen)
        before, untrained = _judge(host, judge, exam, exam.plain, words, began)
    networks = [file for product, file in outcome.files.items() if product.role == "network"]
    after, plain, edited = judge_words(host, judge, exam, words, read_words(outcome.files), networks=networks)
    return ConceptResult(
        exam.concept, plain, edited, sum(untrained) / len(untrained), outcome, training, before, after
    )


def read_words(files: Mapping[Product, Path]) -> Embeddings:
    """The vectors of each word among a job's files."""
    return {
        product.name: read_embedding(file).vectors for product, file in files.items() if product.is_embedding
    }


def judge_words(
    host: Host,
    judge: Judge,
    exam: Exam,
    words: Words,
    vectors: Embeddings,
    ceiling: tuple[list[bool], list[bool]] | None = None,
    networks: Sequence[Path] = (),
) -> tuple[list[Image.Image], Scores, Scores]:
    """The pictures of the plain prompts, and how they and the edited ones compare to the ceiling, which is
    the model's without ``networks``, and judged too where it is not given."""
    with host.lend(), ExitStack() as undo:
        for network in networks:
            undo.enter_context(attach(host, network, family=host.info.family))
        after, plain = _judge(host, judge, exam, exam.plain, words, vectors)
        _, edited = _judge(host, judge, exam, exam.edited, words, vectors)
    plain_ceiling, edited_ceiling = ceiling or judge_ceiling(host, judge, exam)
    return after, Scores(plain, plain_ceiling), Scores(edited, edited_ceiling)


def judge_ceiling(host: Host, judge: Judge, exam: Exam) -> tuple[list[bool], list[bool]]:
    """Which pictures of the plain prompts and of the edited ones are right in the model's own words."""
    with host.lend():
        plain, edited = (_judge_own(host, judge, trial, exam.seed) for trial in (exam.plain, exam.edited))
    return plain, edited


def _judge(
    host: Host, judge: Judge, exam: Exam, trial: Trial, words: Words, vectors: Embeddings
) -> tuple[list[Image.Image], list[bool]]:
    """Pictures of a trial, its words called as users do, and which are right."""
    device = host.info.device
    live = {word: {name: v.to(device) for name, v in table.items()} for word, table in vectors.items()}
    host.set_embeddings(live)
    pictures = draw(host, trial.prompts, exam.seed, words.negative, exam.cfg_scale)
    return pictures, judge.verdict(pictures, trial.asked).right


def _judge_own(host: Host, judge: Judge, trial: Trial, seed: int) -> list[bool]:
    """Which pictures of a trial are right in the model's own words; none where it has none."""
    if not trial.own:
        return [False] * len(trial.prompts)
    host.set_embeddings({})
    return judge.verdict(draw(host, trial.own, seed), trial.own_asked).right


def choose_concepts(names: Sequence[str], seed: int) -> list[Concept]:
    """The named concepts, or some that the seed draws from the test split."""
    if names:
        return [parse_concept(name) for name in names]
    drawn = np.random.default_rng(seed).permutation(len(SPLITS["test"]))[:DEFAULT_CONCEPTS]
    return [parse_concept(SPLITS["test"][i]) for i in sorted(drawn)]


def interval(results: Sequence[ConceptResult], draws: int = 2000) -> list[float | None]:
    """95 % bootstrap interval of the mean ratio, over the pictures of each concept."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(draws):
        ratios = [
            scores.ratio(rng.integers(len(scores.learned), size=len(scores.learned)))
            for result in results
            for scores in (result.plain, result.edited)
        ]
        means.append(np.mean(ratios))
    return [_figure(bound) for bound in np.percentile(means, [2.5, 97.5])]


def bench_quality(
    host: Host,
    judge: Judge,
    concepts: Sequence[Concept],
    *,
    pictures: int,
    images: int,
    exam_seed: int,
    cfg_scale: float,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
    on_result: Callable[[ConceptResult], None],
    **settings: Any,
) -> dict[str, Any]:
    """Teach each concept from ``pictures`` pictures, judge ``images`` plain and as many edited ones."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for concept in concepts:
            trigger = settings.get("trigger_word") or TRIGGER
            exam = Exam(concept, pictures, images, exam_seed, cfg_scale, trigger)
            results.append(train_and_judge(host, judge, exam, Path(folder), report, stopped, **settings))
            on_result(results[-1])
            if stopped():
                break
    plain = [flag for result in results for flag in result.plain.learned]
    edited = [flag for result in results for flag in result.edited.learned]
    return {
        "status": "stopped" if stopped() else "done",
        "ratio": _figure(float(np.mean([result.ratio for result in results]))),
        "interval": interval(results),
        "success": _share(plain),
        "editability": _share(edited),
        "untrained": round(float(np.mean([result.untrained for result in results])), 4),
        "concepts": [result.as_json() for result in results],
    }
