"""Latents of the training pictures: each view of a picture is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch

from lib_ti.data.images import open_image, to_pixels
from lib_ti.data.latent_store import Encode, LatentStore
from lib_ti.data.views import Framed, View

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


def cache_latents(
    pictures: Sequence[Framed], encode: Encode, store: LatentStore | None = None
) -> LatentCache:
    """Encode every view of every picture that ``store`` does not have yet, and add it there.

    One view at a time: a VAE at full size is the peak of memory.
    Raises BadInput at a picture that cannot be read.
    """
    means, stds = [], []
    for picture in pictures:
        parts = [_encoded(picture, view, encode, store) for view in picture.views]
        means.append(torch.stack([part["mean"] for part in parts]))
        stds.append(torch.stack([part["std"] for part in parts]))
    return LatentCache(means, stds)


def _encoded(
    picture: Framed, view: View, encode: Encode, store: LatentStore | None
) -> dict[str, torch.Tensor]:
    made_from = [picture.content, picture.size, astuple(view)]
    found = store.load(made_from, {"mean", "std"}) if store else None
    if found is None:
        pixels = to_pixels(open_image(picture.path), *picture.size, view.place)
        mean, std = encode((pixels.flip(-1) if view.mirrored else pixels)[None])
        found = {"mean": mean[0].float().cpu().contiguous(), "std": std[0].float().cpu().contiguous()}
        if store:
            store.save(made_from, found)
    return found
