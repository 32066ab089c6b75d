from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.data.shrinking import Shrinking, parse_areas, planned, shrink, shrink_folder, shrunk_size


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green to the bottom: every distortion shows."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).round().astype(np.uint8))


def test_sizes_keep_the_proportions_and_never_grow() -> None:
    assert shrunk_size((1024, 1024), (512, 512)) == (512, 512)
    assert shrunk_size((2048, 512), (512, 512)) == (1024, 256)
    assert shrunk_size((300, 200), (512, 512)) == (300, 200)
    for size in ((1999, 13), (640, 481), (5000, 3)):
        width, height = shrunk_size(size, (256, 256))
        assert width * height <= 256 * 256 and width <= size[0] and height <= size[1]


@pytest.mark.parametrize("interpolation", ["area", "cubic", "lanczos4", "linear", "box", "nearest"])
@pytest.mark.parametrize("size", [(400, 200), (200, 400)])
def test_a_picture_is_not_distorted(size: tuple[int, int], interpolation: str) -> None:
    """What sd-scripts swaps: the width of a landscape and the height of a portrait."""
    small = shrink(gradient(*size), (100, 100), 1, interpolation)
    expected = gradient(*shrunk_size(size, (100, 100)))
    assert small.size == expected.size
    assert np.abs(np.asarray(small, float) - np.asarray(expected, float)).max() < 5


def test_the_middle_is_cut_out() -> None:
    cut = shrink(gradient(101, 64), (512, 512), 32, "area")
    assert cut.size == (96, 64)
    assert np.array_equal(np.asarray(cut), np.asarray(gradient(101, 64))[:, 2:98])
    assert shrink(gradient(20, 64), (512, 512), 32, "area").size == (20, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    gradient(64, 32).save(folder / "wide.PNG")
    gradient(16, 16).save(folder / "small.jpg")
    gradient(64, 32).convert("L").save(folder / "wide_att.png")
    (folder / "wide.txt").write_text("a caption")
    (folder / "notes.md").write_text("notes")
    return folder


def test_png_copies_are_exact_and_keep_transparency(folder: Path, tmp_path: Path) -> None:
    picture = gradient(64, 64)
    picture.putalpha(Image.linear_gradient("L").resize((64, 64)))
    picture.save(folder / "cut.png")
    shrinking = Shrinking([(32, 32)], png=True)
    list(shrink_folder(planned(folder, tmp_path / "out", shrinking), shrinking))
    copy = Image.open(tmp_path / "out" / "cut+32x32.png")
    assert np.array_equal(np.asarray(copy), np.asarray(shrink(picture, (32, 32), 1, "area")))
    assert copy.mode == "RGBA"
    assert not (tmp_path / "out" / "wide+32x32.txt").exists()


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    for text in ("512", "512x", "0x9", "99999x9", ""):
        with pytest.raises(BadInput, match="WIDTHxHEIGHT"):
            parse_areas(text)
    assert parse_areas("512x512, 8X16") == [(512, 512), (8, 16)]
    with pytest.raises(BadInput, match="folder of the pictures themselves"):
        planned(folder, folder, Shrinking([(8, 8)]))
    gradient(8, 8).save(folder / "small.png")
    with pytest.raises(BadInput, match=r"would both become small\+8x8\.jpg"):
        planned(folder, tmp_path / "out", Shrinking([(8, 8)]))
