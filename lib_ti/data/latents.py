"""Latents of the training pictures: each view of a picture is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lib_ti.core.randomness import generator_at
from lib_ti.data.buckets import Size
from lib_ti.data.dataset import Picture, Subset
from lib_ti.data.images import open_image, to_pixels

# Pixels (b, 3, h, w), -1..1 -> mean and std of the latents, scaled, (b, c, h/8, w/8).
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

_CROPS = (0, 1)  # the place of their random numbers: steps count from 1, epochs are (0, epoch)


@dataclass(frozen=True)
class View:
    """One way to look at a picture. ``place``: of the cut, 0..1 across and down."""

    place: tuple[float, float] = (0.5, 0.5)
    mirrored: bool = False


@dataclass(frozen=True)
class Framed:
    """A picture as it will be encoded: at one size, in one or more views, of which a step takes one."""

    path: Path
    size: Size
    views: Sequence[View]


def frame(
    pictures: Sequence[Picture],
    sizes: Sequence[Size],
    contents: Sequence[str],
    native: int,
    grain: int,
    seed: int,
) -> list[Framed]:
    """At what size and in which views each picture is encoded.

    ``sizes``, ``contents``: of the pictures, and the hashes of their files; ``native``: the model's
    side; ``grain``: pixels a latent. Raises BadInput where the buckets leave no place for their size.
    """
    settled = {picture.subset: picture.subset.bucketing.settled(native, grain) for picture in pictures}
    framed = []
    for picture, size, content in zip(pictures, sizes, contents, strict=True):
        target = settled[picture.subset].size_of(size)
        framed.append(Framed(picture.path, target, _views(picture.subset, size, target, content, seed)))
    return framed


def _views(subset: Subset, size: Size, target: Size, content: str, seed: int) -> list[View]:
    """The views of a picture of ``size`` that is trained at ``target``.

    Where random cuts lie is settled by seed and ``content``, so that a picture keeps its cuts, and with
    them its latents, whatever else is in the folder. A cut that is new at every step could not be kept.
    """
    places = [(0.5, 0.5)]
    if subset.random_crops and size[0] * target[1] != size[1] * target[0]:
        generator = generator_at(seed, *_CROPS, int(content[:8], 16))
        across, down = torch.rand(2, subset.random_crops, generator=generator).tolist()
        places = list(zip(across, down, strict=True))
    sides = (False, True) if subset.flip else (False,)
    return [View(place, mirrored) for place in places for mirrored in sides]


# Of every picture one tensor; pictures of one size may share a larger one.
Rows = torch.Tensor | Sequence[torch.Tensor]


@dataclass(frozen=True)
class LatentCache:
    """``mean`` and ``std`` of every picture, each (views, c, h, w), float32, on the CPU."""

    mean: Rows
    std: Rows

    def size_of(self, row: int) -> torch.Size:
        """(c, h, w) of a picture's latents."""
        return self.mean[row].shape[1:]


def cache_latents(pictures: Sequence[Framed], encode: Encode) -> LatentCache:
    """Encode every view of every picture. Raises BadInput at a picture that cannot be read.

    One view at a time: a VAE at full size is the peak of memory.
    """
    means, stds = [], []
    for picture in pictures:
        image = open_image(picture.path)
        encoded = [encode(_pixels(image, picture.size, view)[None]) for view in picture.views]
        means.append(torch.cat([mean.float().cpu() for mean, _ in encoded]))
        stds.append(torch.cat([std.float().cpu() for _, std in encoded]))
    return LatentCache(means, stds)


def _pixels(image: Image.Image, size: Size, view: View) -> torch.Tensor:
    pixels = to_pixels(image, *size, view.place)
    return pixels.flip(-1) if view.mirrored else pixels
