"""Does the built-in checkpoint draw what its prompts ask for?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from lib_ti.hosts.base import Host, SampleRequest
from lib_ti.tinyworld.corpus import BENCH_SEED
from lib_ti.tinyworld.judge import Judge
from lib_ti.tinyworld.world import ATTRIBUTES, caption, random_scene

SIDE = 64  # pixels
SAMPLING_STEPS = 20
CFG_SCALE = 4.0


def draw(
    host: Host,
    prompts: Sequence[str],
    seed: int,
    negative_prompt: str = "",
    cfg_scale: float = CFG_SCALE,
) -> list[Image.Image]:
    """A picture for each prompt, seeds counting up from ``seed``."""
    request = SampleRequest(
        prompts=prompts,
        seeds=range(seed, seed + len(prompts)),
        negative_prompt=negative_prompt,
        steps=SAMPLING_STEPS,
        cfg_scale=cfg_scale,
        width=SIDE,
        height=SIDE,
    )
    return host.sample(request)


def draw_asked(rng: np.random.Generator, always: frozenset[str]) -> frozenset[str]:
    """The attributes a test prompt asks for: ``always``, and each of the others half of the time."""
    return always | {name for name in ATTRIBUTES if rng.random() < 0.5}


def bench_world(host: Host, judge: Judge, images: int = 256, seed: int = 0) -> dict[str, Any]:
    """Share of pictures in which every attribute that the prompt named is right.

    Prompts name shape, colour and background, and the others half of the time; scenes and noise
    come from seeds that no training used.
    """
    rng = np.random.default_rng(BENCH_SEED + seed)
    scenes = [random_scene(rng) for _ in range(images)]
    asked = [draw_asked(rng, frozenset({"shape", "colour", "background"})) for _ in scenes]
    prompts = [caption(scene, rng, named, {}) for scene, named in zip(scenes, asked, strict=True)]
    pictures = draw(host, prompts, BENCH_SEED + seed)
    wanted = [
        {name: getattr(scene, name) for name in named} for scene, named in zip(scenes, asked, strict=True)
    ]
    verdict = judge.verdict(pictures, wanted)
    return {
        "success": round(verdict.success, 4),
        "per_attribute": {name: round(value, 4) for name, value in verdict.per_attribute.items()},
        "images": images,
        "seed": seed,
    }
