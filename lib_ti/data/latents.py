"""Latents of the training pictures: each view of a picture is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from lib_ti.data.buckets import Size
from lib_ti.data.images import open_image, to_pixels
from lib_ti.data.latent_store import Encode, LatentStore
from lib_ti.data.masks import load_mask, to_weights
from lib_ti.data.views import Framed, View

_LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601, as Pillow's "L"

Open = Callable[[Path], Image.Image]

# Of every picture one tensor; pictures of one size may share a larger one.
Rows = torch.Tensor | Sequence[torch.Tensor]


@dataclass(frozen=True)
class LatentCache:
    """``mean`` and ``std`` of every picture, each (views, c, h, w), float32, on the CPU.

    ``mask``: (views, 1, h, w) of those that have one; see ``lib_ti.data.masks``. ``sizes``: of every
    picture what sd-scripts tells SDXL of its size, (views, 6); see ``size_conditioning``.
    """

    mean: Rows
    std: Rows
    mask: Mapping[int, torch.Tensor] = field(default_factory=dict)
    sizes: Sequence[torch.Tensor] = ()

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
    means, stds, masks = [], [], {}
    for row, picture in enumerate(pictures):
        opened = cache(open_image)  # by all the views, and by nobody afterwards
        parts = [_encoded(picture, view, opened, encode, store) for view in picture.views]
        means.append(torch.stack([part["mean"] for part in parts]))
        stds.append(torch.stack([part["std"] for part in parts]))
        if picture.mask or picture.alpha_mask:
            size = (means[-1].shape[-1], means[-1].shape[-2])
            views = [_weights(picture, view, size, opened, store) for view in picture.views]
            if len(views[0]):
                masks[row] = torch.stack(views)
    return LatentCache(means, stds, masks, [_sizes(picture) for picture in pictures])


def _sizes(picture: Framed) -> torch.Tensor:
    """Of each of its views, (views, 6)."""
    original = picture.original or picture.size
    return torch.tensor([size_conditioning(original, picture.size, view) for view in picture.views])


def size_conditioning(original: Size, trained: Size, view: View) -> tuple[float, ...]:
    """What sd-scripts tells SDXL of a picture: its own height and width, top and left of the crop, height
    and width it is trained at, in pixels.

    The crop is by its own formula (``BucketManager.get_crop_ltrb``), which fits the picture into the size,
    where it is cut to fill it; of a mirrored one what is right counts as left.
    """
    (width, height), (wide, high) = original, trained
    shape = width / height
    fitted = (high * shape, float(high)) if wide / high > shape else (float(wide), wide / shape)
    left, top = (wide - fitted[0]) // 2, (high - fitted[1]) // 2
    if view.mirrored:
        left = float(int(wide - (left + fitted[0])))
    return float(height), float(width), top, left, float(high), float(wide)


def _encoded(
    picture: Framed, view: View, opened: Open, encode: Encode, store: LatentStore | None
) -> dict[str, torch.Tensor]:
    """The ``mean`` and ``std`` of one view, each (c, h, w)."""

    def make() -> dict[str, torch.Tensor]:
        pixels = to_pixels(opened(picture.path), *picture.size, view.place, picture.resize)
        if view.grey:
            pixels = (pixels * _LUMA).sum(0, keepdim=True).expand_as(pixels)
        mean, std = encode((pixels.flip(-1) if view.mirrored else pixels)[None])
        return {"mean": mean[0].float().cpu().contiguous(), "std": std[0].float().cpu().contiguous()}

    made_from = [picture.content, picture.size, astuple(view)]
    if picture.resize != Framed.resize:
        made_from.append(picture.resize)
    if picture.converted:  # what was kept before colours were converted is not that
        made_from.append("in sRGB")
    return make() if store is None else store.get(made_from, {"mean", "std"}, make)


def _weights(
    picture: Framed, view: View, size: Size, opened: Open, store: LatentStore | None
) -> torch.Tensor:
    """The mask at the latents' size (w, h), (1, h, w); (0,) where the picture has none."""

    def make() -> dict[str, torch.Tensor]:
        whole, linear = opened(picture.path), picture.linear_mask
        mask = load_mask(whole, picture.path, picture.mask, picture.alpha_mask, linear=linear)
        weights = torch.zeros(0)
        if mask is not None:
            weights = to_weights(mask, *size, view.place, normalised=picture.normalise_masks)
        return {"mask": (weights.flip(-1) if view.mirrored else weights).contiguous()}

    source = [picture.content, picture.mask_content, picture.alpha_mask]
    kind = "mask" if picture.normalise_masks else "mask as it is"
    if picture.linear_mask:
        kind = f"linear {kind}"
    made_from = [kind, source, picture.size, astuple(view)]
    return (make() if store is None else store.get(made_from, {"mask"}, make))["mask"]
