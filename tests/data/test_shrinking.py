from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_ti.cli import main
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


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    """Originals, copies from the originals, captions and masks, under the names of sd-scripts' tool."""
    command = ["images", "resize", str(folder), str(tmp_path / "out"), "--sizes", "32x32,16x16"]
    assert main([*command, "--together"]) == 0
    out = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert sorted(out) == sorted(
        [
            *(path.name for path in folder.iterdir()),
            *("wide+32x32.jpg", "wide+16x16.jpg", "wide+32x32.txt", "wide+16x16.txt"),
            *("wide+32x32_att.png", "wide+16x16_att.png", "small+32x32.jpg", "small+16x16.jpg"),
        ]
    )
    for path in folder.iterdir():
        assert out[path.name].read_bytes() == path.read_bytes()
    assert out["wide+16x16.txt"].read_text() == "a caption"
    sizes = {name: Image.open(path).size for name, path in out.items() if "+" in name and "txt" not in name}
    assert sizes["wide+32x32.jpg"] == sizes["wide+32x32_att.png"] == (45, 22)
    assert sizes["wide+16x16.jpg"] == (22, 11)
    assert sizes["small+32x32.jpg"] == sizes["small+16x16.jpg"] == (16, 16)
    again = shrink(gradient(64, 32), (16, 16), 1, "area")
    assert np.abs(np.asarray(Image.open(out["wide+16x16.jpg"]), float) - np.asarray(again, float)).max() < 5

    before = {name: path.read_bytes() for name, path in out.items()}
    assert main(command) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert main([*command, "--overwrite"]) == 0


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
