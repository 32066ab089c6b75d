"""Regularisation pictures, drawn by the very model that is about to be trained.

What it draws of the kind is what it knows of the kind; pictures from elsewhere would be learned too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import torch
from PIL import Image

from lib_ti.core.errors import BadInput, Interrupted, StudioError
from lib_ti.core.files import write_atomically, write_text
from lib_ti.core.randomness import generator_at
from lib_ti.data.buckets import Size
from lib_ti.data.images import SUFFIXES
from lib_ti.data.templates import fill
from lib_ti.hosts.base import Host, SampleRequest
from lib_ti.methods.kind import JobSettings

_DRAWN = (0, 2)  # the place of their seeds: epochs are (0, epoch) of another length


def drawn_prompt(settings: JobSettings) -> str:
    """What the pictures are drawn of. Raises BadInput where nothing says what kind of thing that is."""
    if "[name]" in settings.reg_prompt and not settings.class_words:
        raise BadInput(
            f"make-reg: in reg-prompt {settings.reg_prompt!r} nothing says what kind of thing [name] is; "
            "give an init-text such as dog, or a prompt such as 'a photo of a dog'."
        )
    prompt = fill(settings.reg_prompt, name=settings.class_words, filewords="").strip()
    if not prompt:
        raise BadInput("make-reg: reg-prompt is empty; give one such as 'a photo of a dog'.")
    return prompt


def draw_pictures(
    host: Host,
    settings: JobSettings,
    size: Size,
    kept: Path,
    report: Callable[[int], None],
    stopped: Callable[[], bool],
) -> Path:
    """The folder with ``make_reg`` pictures and their captions: what it lacks is drawn first.

    It is the user's where one is named, else one below ``kept`` for all jobs that would draw the same.
    ``report`` is told how many there are. Raises Interrupted; the pictures drawn so far stay.
    """
    prompt = drawn_prompt(settings)
    folder = Path(settings.reg_images).expanduser() if settings.reg_images else None
    folder = folder or kept / _key(host, settings, size, prompt)
    there = _pictures(folder)
    free = (path for number in count(1) if not (path := folder / f"drawn-{number:04d}.png").exists())
    while there < settings.make_reg:
        path = next(free)
        seed = picture_seed(settings.seed, int(path.stem.rpartition("-")[2]))
        request = SampleRequest([prompt], [seed], width=size[0], height=size[1])
        image = _drawn(host, request, stopped)
        if image is None:
            raise Interrupted(
                f"stopped: {there} of {settings.make_reg} regularisation pictures are in {folder}, and will "
                "not be drawn again."
            )
        # First, for a picture without it would have its file name as its caption.
        write_text(path.with_suffix(settings.caption_extension), settings.reg_prompt)
        write_atomically(path, partial(image.save, format="PNG"))
        there += 1
        report(there)
    return folder


def picture_seed(seed: int, number: int) -> int:
    """Of the picture of that number, from 1, in a job of that seed."""
    return int(torch.randint(2**32, (1,), generator=generator_at(seed, *_DRAWN, number)))


def _drawn(host: Host, request: SampleRequest, stopped: Callable[[], bool]) -> Image.Image | None:
    """None where it was stopped; what a program returns then may not be finished."""
    if stopped():
        return None
    try:
        [image] = host.sample(request)
    except StudioError:
        if not stopped():
            raise
    return None if stopped() else image


def _key(host: Host, settings: JobSettings, size: Size, prompt: str) -> str:
    """Of everything that the folder's content follows from."""
    model = host.info.sha256 or host.info.name
    made_from = [
        model,
        prompt,
        size,
        settings.seed,
        settings.clip_skip,
        settings.make_reg,
        settings.reg_prompt,
        settings.caption_extension,
    ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def _pictures(folder: Path) -> int:
    """How many there are. Raises BadInput where they would not be found beside what else there is."""
    inside = list(folder.iterdir()) if folder.is_dir() else []
    if any(path.is_dir() for path in inside):
        raise BadInput(
            f"make-reg: {folder} holds folders; name one for the pictures alone, or leave out reg-images."
        )
    return sum(path.suffix.lower() in SUFFIXES for path in inside)
