from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_ti.data.buckets import Bucketing
from lib_ti.data.dataset import Picture, Subset
from lib_ti.data.known_files import Facts
from lib_ti.data.latent_store import LatentStore
from lib_ti.data.latents import cache_latents
from lib_ti.data.views import Framed, View, frame

HASHES = ["1234567890abcdef", "fedcba0987654321"]


def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of every eighth column and row stand for latents."""
    mean = pixels[:, :, ::8, ::8]
    return mean, torch.full_like(mean, 0.5)


def save(path: Path, width: int, height: int) -> Path:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (height, width)).copy()).save(path)
    return path


def framed(subset: Subset, size: tuple[int, int], seed: int = 1, content: str = HASHES[0]) -> Framed:
    return frame([Picture(Path("a.png"), "", subset)], [Facts(content, size)], 64, 8, seed)[0]


def test_pictures_of_several_sizes_are_cached_at_their_own(tmp_path: Path) -> None:
    subset = Subset(tmp_path, flip=True)
    sizes = [(128, 128), (100, 200)]
    pictures = [Picture(save(tmp_path / f"{w}.png", w, h), "", subset) for w, h in sizes]
    facts = [Facts(content, size) for content, size in zip(HASHES, sizes, strict=True)]
    cache = cache_latents(frame(pictures, facts, 64, 8, 1), encode)
    assert [tuple(mean.shape) for mean in cache.mean] == [(2, 3, 8, 8), (2, 3, 11, 5)]
    assert [tuple(cache.size_of(row)) for row in (0, 1)] == [(3, 8, 8), (3, 11, 5)]
    # From left to right the picture grows brighter, its mirror image darker.
    plain, mirrored = cache.mean[0][:, 0, 0]
    assert (plain.diff() > 0).all() and (mirrored.diff() < 0).all()


def test_random_cuts_belong_to_seed_and_picture_and_lie_within_the_spare_length() -> None:
    subset = Subset(Path(), random_crops=4, flip=True)
    one = framed(subset, (200, 64)).views
    assert len(one) == 8 and len({view.place for view in one}) == 4
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in (view.place for view in one))
    assert framed(subset, (200, 64)).views == one
    assert framed(subset, (200, 64), seed=2).views != one
    assert framed(subset, (200, 64), content=HASHES[1]).views != one


def test_a_picture_that_loses_nothing_needs_one_view_only() -> None:
    assert framed(Subset(Path(), random_crops=4), (640, 640)).views == [View()]


def test_where_a_cut_lies(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 128, 64)
    views = [View((0.0, 0.5)), View((0.5, 0.5)), View((1.0, 0.5))]
    (mean,) = cache_latents([Framed(path, HASHES[0], (64, 64), views)], encode).mean
    left, middle, right = ((float(view[0, 0, 0]) + 1) / 2 for view in mean)
    assert left < 0.01 and abs(middle - 0.25) < 0.01 and abs(right - 0.5) < 0.01


def test_without_buckets_all_are_cut_to_one_size() -> None:
    subset = Subset(Path(), Bucketing(enabled=False))
    assert framed(subset, (640, 64)).size == (64, 64)


def test_a_second_start_encodes_nothing_and_finds_the_same(tmp_path: Path) -> None:
    pictures = [
        Framed(save(tmp_path / "a.png", 128, 64), HASHES[0], (64, 64), [View(), View(mirrored=True)]),
        Framed(save(tmp_path / "b.png", 64, 128), HASHES[1], (64, 128), [View((0.1, 0.2))]),
    ]
    encoded = []

    def counted(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(pixels)
        return encode(pixels)

    first = cache_latents(pictures, counted, LatentStore(tmp_path / "latents", counted))
    assert len(encoded) == 3 + 1  # the views, and the picture that tells which encoder it is
    second = cache_latents(pictures, counted, LatentStore(tmp_path / "latents", counted))
    assert len(encoded) == 4 + 1
    for one, other in zip([*first.mean, *first.std], [*second.mean, *second.std], strict=True):
        assert torch.equal(one, other)
    # Another size, another view, another content: encoded anew.
    for changed in (
        replace(pictures[0], size=(128, 64), views=[View()]),
        replace(pictures[0], views=[View((0.0, 0.5))]),
        replace(pictures[0], content=HASHES[1], views=[View()]),
    ):
        before = len(encoded)
        cache_latents([changed], counted, LatentStore(tmp_path / "latents", counted))
        assert len(encoded) == before + 2


def test_grey_copies_are_views_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), (200, 100, 0)).save(path)
    views = framed(Subset(Path(), grey_copies=True, flip=True), (64, 64)).views
    assert [(view.mirrored, view.grey) for view in views] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    (mean,) = cache_latents([Framed(path, HASHES[0], (64, 64), views)], encode).mean
    colour, grey = ((mean[i, :, 0, 0] + 1) * 127.5 for i in (0, 1))
    assert colour.tolist() == pytest.approx([200, 100, 0], abs=0.01)
    assert grey.tolist() == pytest.approx([0.299 * 200 + 0.587 * 100] * 3, abs=0.01)


def test_masks_follow_the_views_and_are_kept(tmp_path: Path) -> None:
    path, mask = save(tmp_path / "a.png", 128, 64), tmp_path / "a_att.png"
    left = np.zeros((64, 128), np.uint8)
    left[:, :48] = 127
    Image.fromarray(left).save(mask)
    views = [View((0.0, 0.5)), View((0.0, 0.5), mirrored=True), View((1.0, 0.5))]
    plain = Framed(path, HASHES[1], (64, 64), [View()])
    pictures = [plain, Framed(path, HASHES[0], (64, 64), views, mask=mask, mask_content=HASHES[1])]
    cache = cache_latents(pictures, encode, LatentStore(tmp_path / "latents", encode))
    assert list(cache.mask) == [1] and cache.mask[1].shape == (3, 1, 8, 8)
    # Six of eight columns count, so each of them 8 / 6; the right half has nothing that does.
    expected = torch.tensor([8 / 6] * 6 + [0, 0]).expand(8, 8)
    torch.testing.assert_close(cache.mask[1][0, 0], expected)
    torch.testing.assert_close(cache.mask[1][1, 0], expected.flip(-1))
    assert not cache.mask[1][2].any()
    mask.unlink()
    again = cache_latents(pictures, encode, LatentStore(tmp_path / "latents", encode))
    assert torch.equal(again.mask[1], cache.mask[1])


def test_pictures_are_scaled_as_asked_and_each_way_is_kept_for_itself(tmp_path: Path) -> None:
    dots = Image.fromarray(np.indices((16, 16)).sum(0).astype(np.uint8) % 2 * 255)
    dots.save(tmp_path / "a.png")
    store = LatentStore(tmp_path / "latents", whole)

    def pixels(resize: str) -> torch.Tensor:
        picture = replace(Framed(tmp_path / "a.png", HASHES[0], (8, 8), [View()]), resize=resize)
        return cache_latents([picture], whole, store).mean[0]

    assert pixels("nearest").unique().tolist() in ([-1.0], [1.0])
    assert pixels("box").abs().max() < 0.01
    assert not torch.equal(pixels("lanczos"), pixels("box"))
    assert torch.equal(pixels("nearest").abs(), torch.ones(1, 3, 8, 8))


def whole(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pixels, torch.zeros_like(pixels)
