"""Which pictures the model can show at all: those that its VAE gives back as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.files import new_folder
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.data.images import find_images, open_image, remarks_told, to_pixels
from lib_ti.data.looking import Look, draw_look, look_at
from lib_ti.data.making import copy_as, free_stem
from lib_ti.hosts.base import Host
from lib_ti.tools.image_tools import ChooseSettings
from lib_ti.tools.tool import Answer, Context

_SIDE, _SHOWN = 256, 60  # pixels of a thumbnail, thumbnails


@dataclass(frozen=True)
class _Judged:
    look: Look
    error: float
    shown: Image.Image


def choose(settings: ChooseSettings, context: Context) -> Answer:
    """By the VAE's error on what training will cut of each picture; damaged ones are passed over."""
    asked = PictureSettings(
        images=settings.images,
        width=settings.width,
        height=settings.height,
        caption_extension=settings.caption_extension,
    )
    find_images(Path(settings.images))  # or says what is wrong with the folder, before a model is loaded
    judged, stopped = [], False
    with context.turn() as host, host.lend():
        looks = look_at(asked, host.info.native_size)
        for done, one in enumerate(looks, start=1):
            if stopped := context.stopped():
                break
            try:
                image = open_image(one.path)
            except BadInput:
                continue
            error = vae_error(host, to_pixels(image, *one.target))
            judged.append(_Judged(one, error, draw_look(image, one.box, _SIDE)))
            context.progress(done, len(looks))
    judged.sort(key=lambda each: each.error)
    best = judged[: settings.best]
    written = () if stopped or not settings.to else _write(best, Path(settings.to))
    told = [
        {"file": each.look.path.name, "error": round(each.error, 3), "chosen": each in best}
        for each in judged
    ]
    where = f" They are in {settings.to}." if written else ""
    return Answer(
        f"{len(best)} of {len(looks)} pictures come back best from the VAE, errors "
        f"{_span(best)} of 255.{where}",
        {"pictures": told},
        tuple(written),
        tuple((each.shown, f"{each.look.path.name}: error {each.error:.2f}") for each in best[:_SHOWN]),
        stopped,
        notes=tuple(remarks_told((one.path.name, one.remarks) for one in looks)),
    )


def _span(judged: Sequence[_Judged]) -> str:
    return f"{judged[0].error:.2f} to {judged[-1].error:.2f}" if judged else "unknown"


@torch.no_grad()
def vae_error(host: Host, pixels: torch.Tensor) -> float:
    """Root mean square of what encoding and decoding changes, in steps of 0..255. ``pixels``: (3, h, w)."""
    again = host.decode(host.encode_images(pixels[None]).mean)[0].float().cpu().clamp(-1, 1)
    return float((again - pixels).square().mean().sqrt()) * 127.5


def _write(judged: Sequence[_Judged], target: Path) -> tuple[Path, ...]:
    taken: set[str] = set()
    written = []
    with new_folder(target) as folder:
        for each in judged:
            stem = free_stem(each.look.path.stem, taken)
            written.append(target / copy_as(stem, each.look.path, folder).name)
            (folder / f"{stem}.txt").write_text(each.look.caption, encoding="utf-8")
    return tuple(written)
