"""``ti-studio demo``: the main job, end to end, on the built-in model."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any

from PIL import Image

from lib_ti.bench.quality import TRIGGER, ConceptResult, Exam, train_and_judge
from lib_ti.commands.shared import Stopped
from lib_ti.commands.train import Watch
from lib_ti.core.errors import BadInput
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.report import Row, contact_sheet, save_png
from lib_ti.tinyworld.concepts import parse_concept
from lib_ti.tinyworld.judge import Judge

PICTURES, JUDGED, SHOWN = 8, 64, 8


def run(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    concept = parse_concept(args.concept)
    if args.model != "builtin":
        raise BadInput("the demo knows how to judge the built-in model only; use train for other models.")
    folder = args.data / ".ti-studio" / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    print(
        f"The word {concept.name!r} is hidden. {PICTURES} pictures of it are drawn, and {TRIGGER!r} is "
        "taught to mean what they have in common; then a judge compares it with the model's own word.",
        file=sys.stderr,
    )
    host = StandaloneHost.load(args.model, args.device, 1, args.prediction)
    watch = Watch()
    exam = Exam(concept, PICTURES, JUDGED, args.seed)
    result = train_and_judge(host, Judge(), exam, folder, watch, stopped, seed=args.seed)
    watch.close()
    sheet = folder / "report.png"
    save_png(_sheet(result), sheet)
    told = result.as_json()
    print(
        f"before: {told['untrained']:.0%} right, after: {told['success']:.0%}, "
        f"the model's own word: {told['success_ceiling']:.0%}\n"
        f"pictures:  {sheet}\nembedding: {result.outcome.embedding}",
        file=sys.stderr,
    )
    return {
        "status": result.outcome.status,
        "concept": concept.name,
        "ceiling": told["success_ceiling"],
        "success": told["success"],
        "ratio": told["ratio"],
        "editability": told["editability"],
        "untrained": told["untrained"],
        "steps": told["steps"],
        "seconds": told["seconds"],
        "embedding": str(result.outcome.embedding),
        "report": str(sheet),
    }


def _sheet(result: ConceptResult) -> Image.Image:
    count = len(result.training)
    right = result.as_json()
    return contact_sheet(
        f"{count} pictures teach a new word, {TRIGGER}",
        [
            Row(
                "the training pictures",
                f"the word {result.concept.name!r} was never told",
                result.training[:SHOWN],
            ),
            Row(
                "before",
                f"{right['untrained']:.0%} of {JUDGED} are what the prompt asked for",
                result.before[:SHOWN],
            ),
            Row(
                f"after {right['steps']} steps",
                f"{right['success']:.0%} are; the model's own word {result.concept.name!r} reaches "
                f"{right['success_ceiling']:.0%} on the same prompts",
                result.after[:SHOWN],
            ),
        ],
    )
