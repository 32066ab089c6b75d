from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.data.buckets import (
    Bucketing,
    bucket_sizes,
    bucket_table,
    lost_share,
    nearest_size,
    size_without_enlarging,
)

# As sd-scripts makes them of a resolution of 512 with its own defaults.
AT_512 = {
    *((256, side) for side in (832, 896, 960, 1024)),
    *((320, side) for side in (704, 768)),
    (384, 640),
    (448, 576),
    (512, 512),
}


def test_the_sizes_at_512_are_those_of_sd_scripts() -> None:
    sizes = bucket_sizes(512, 512, 256, 1024, 64)
    assert sizes == sorted(AT_512 | {(height, width) for width, height in AT_512})


@pytest.mark.parametrize(
    ("side", "high", "count"), [(512, 1024, 17), (768, 1024, 19), (1024, 1024, 25), (1024, 2048, 41)]
)
def test_as_many_sizes_as_sd_scripts_makes(side: int, high: int, count: int) -> None:
    sizes = bucket_sizes(side, side, 256, high, 64)
    assert len(sizes) == count
    assert all(width * height <= side * side for width, height in sizes)
    assert all(256 <= edge <= high and edge % 64 == 0 for size in sizes for edge in size)


def test_an_exact_size_wins_and_else_the_nearest_proportions() -> None:
    sizes = bucket_sizes(512, 512, 256, 1024, 64)
    assert nearest_size((320, 704), sizes) == (320, 704)
    assert nearest_size((3000, 3000), sizes) == (512, 512)
    assert nearest_size((4000, 3000), sizes) == (576, 448)  # 1.333: 1.286 is nearer than 1.667
    assert nearest_size((10, 1000), sizes) == (256, 1024)


def test_without_enlarging_a_small_picture_keeps_its_size_and_a_large_one_its_proportions() -> None:
    assert size_without_enlarging((500, 300), 512 * 512, 64) == (448, 256)
    assert size_without_enlarging((512, 512), 512 * 512, 64) == (512, 512)
    assert size_without_enlarging((1024, 1024), 512 * 512, 64) == (512, 512)
    # 2:1 of 512 * 512 pixels is 724 x 362. 704 wide keeps 2:1 with 352 -> 320 (2.2); 320 high with 640 (2.0).
    assert size_without_enlarging((2000, 1000), 512 * 512, 64) == (640, 320)
    assert size_without_enlarging((1000, 2000), 512 * 512, 64) == (320, 640)
    assert size_without_enlarging((40, 1000), 512 * 512, 64) == (64, 960)


@pytest.mark.parametrize(
    ("native", "low", "high", "step"),
    [(512, 256, 1024, 64), (1024, 512, 2048, 64), (64, 32, 128, 8), (520, 256, 1040, 8)],
)
def test_what_is_left_open_follows_from_the_model(native: int, low: int, high: int, step: int) -> None:
    settled = Bucketing().settled(native, 8)
    assert (settled.low, settled.high, settled.step) == (low, high, step)
    assert settled.size_of((3 * native, 3 * native)) == (native, native)


def test_bounds_are_rounded_outwards_and_must_hold_the_size() -> None:
    settled = Bucketing(low=300, high=700).settled(512, 8)
    assert (settled.low, settled.high) == (256, 704)
    with pytest.raises(BadInput, match="sides of 576 to 1024 pixels leave no place for 512x512"):
        Bucketing(low=600).settled(512, 8)
    with pytest.raises(BadInput, match="leave no place for 512x768"):
        Bucketing(width=512, height=768, high=700).settled(512, 8)
    with pytest.raises(BadInput, match="bucket-step: got 20 pixels, expected a multiple of 8"):
        Bucketing(step=20).settled(512, 8)


def test_switched_off_everything_is_cut_to_one_size() -> None:
    fixed = Bucketing(width=640, height=384, enabled=False).settled(512, 8)
    assert {fixed.size_of(size) for size in ((100, 100), (640, 384), (384, 640))} == {(640, 384)}


def test_what_is_cut_off() -> None:
    assert lost_share((800, 600), (512, 512)) == pytest.approx(0.25)
    assert lost_share((600, 800), (512, 512)) == pytest.approx(0.25)
    assert lost_share((1000, 1000), (512, 512)) == 0


def test_the_table_tells_buckets_pictures_loss_and_enlargement() -> None:
    told = bucket_table([(1000, 1000), (256, 256), (800, 600)], [(512, 512), (512, 512), (576, 448)])
    assert told == [
        "bucket 512x512: 2 pictures, 0.0% of the pixels cut off; 1 enlarged, up to 2 times",
        "bucket 576x448: 1 picture, 3.6% of the pixels cut off",
    ]
