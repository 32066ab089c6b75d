"""How each picture is looked at: at what size, where it is cut, which way round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from lib_ti.core.randomness import generator_at
from lib_ti.data.buckets import Size
from lib_ti.data.dataset import Picture, Subset
from lib_ti.data.known_files import Facts

_CROPS = (0, 1)  # the place of their random numbers: steps count from 1, epochs are (0, epoch)


@dataclass(frozen=True)
class View:
    """One way to look at a picture. ``place``: of the cut, 0..1 across and down."""

    place: tuple[float, float] = (0.5, 0.5)
    mirrored: bool = False
    grey: bool = False


@dataclass(frozen=True)
class Framed:
    """A picture as it will be encoded: at one size, in one or more views, of which a step takes one."""

    path: Path
    content: str  # SHA-256 of the file
    size: Size
    views: Sequence[View]
    alpha_mask: bool = False
    mask: Path | None = None
    mask_content: str = ""
    resize: str = "lanczos"
    normalise_masks: bool = True
    original: Size | None = None  # of the upright picture itself; None: as it is encoded
    converted: bool = False  # its colours, to sRGB
    linear_mask: bool = False  # its mask's white counts once


def frame(
    pictures: Sequence[Picture], facts: Sequence[Facts], native: int, grain: int, seed: int
) -> list[Framed]:
    """At what size and in which views each picture is encoded.

    ``facts``: of the pictures' files; ``native``: the model's side; ``grain``: pixels a latent.
    Raises BadInput where the buckets leave no place for the size asked for.
    """
    settled = {picture.subset: picture.subset.bucketing.settled(native, grain) for picture in pictures}
    framed = []
    for picture, known in zip(pictures, facts, strict=True):
        target = settled[picture.subset].size_of(known.size)
        views = _views(picture.subset, known, target, seed)
        subset = picture.subset
        framed.append(
            Framed(
                picture.path,
                known.content,
                target,
                views,
                subset.alpha_mask,
                picture.mask,
                known.mask,
                subset.resize,
                subset.normalise_masks,
                known.size,
                known.converted,
                subset.mask_folder is not None,
            )
        )
    return framed


def _views(subset: Subset, known: Facts, target: Size, seed: int) -> list[View]:
    """The views of a picture that is trained at ``target``.

    Where random cuts lie is settled by seed and content, so that a picture keeps its cuts, and with
    them its latents, whatever else is in the folder. A cut that is new at every step could not be kept.
    """
    places = [(0.5, 0.5)]
    if subset.random_crops and known.size[0] * target[1] != known.size[1] * target[0]:
        generator = generator_at(seed, *_CROPS, int(known.content[:8], 16))
        across, down = torch.rand(2, subset.random_crops, generator=generator).tolist()
        places = list(zip(across, down, strict=True))
    sides = (False, True) if subset.flip else (False,)
    colours = (False, True) if subset.grey_copies else (False,)
    return [View(*view) for view in product(places, sides, colours)]
