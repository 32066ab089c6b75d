"""Data sets made of folders: exact copies, what is made beside them, and originals that stay as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from lib_ti.core.errors import BadInput
from lib_ti.data.captions import read_caption
from lib_ti.data.images import find_images, is_upright, mask_file, open_image
from lib_ti.data.making import OVERLAP, Making, free_stem, split_boxes, survey, write_picture
from lib_ti.data.masks import load_mask
from lib_ti.data.shrinking import shrink


def blocks(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    """Random colours in blocks of 8 pixels: no two are alike, and no shift or turn goes unseen."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, channels), dtype=np.uint8)
    return Image.fromarray(pixels.repeat(8, 0).repeat(8, 1))


def made(source: Path, target: Path, making: Making) -> dict[str, Path]:
    """Everything that is made of a folder, by name."""
    target.mkdir()
    taken: set[str] = set()
    for known in survey(source).pictures:
        write_picture(known, making, target, taken)
    return {path.name: path for path in target.iterdir()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def test_what_needs_no_change_is_copied_to_the_byte_with_its_caption(source: Path, tmp_path: Path) -> None:
    blocks(64, 48).save(source / "0001-a red cat.jpg", exif=Image.Exif(), comment="kept")
    blocks(64, 48, 1).save(source / "b.webp", lossless=True)
    (source / "b.txt").write_text("\ufeffa dög\n", encoding="utf-8")
    new = made(source, tmp_path / "new", Making())
    assert sorted(new) == ["0001-a red cat.jpg", "0001-a red cat.txt", "b.txt", "b.webp"]
    for name in ("0001-a red cat.jpg", "b.webp"):
        assert new[name].read_bytes() == (source / name).read_bytes()
        assert read_caption(new[name]) == read_caption(source / name)
    assert new["b.txt"].read_bytes() == "a dög".encode()


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_camera_picture_is_turned_upright(source: Path, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks(64, 48).save(source / "a.png", exif=exif)
    new = made(source, tmp_path / "new", Making())["a.png"]
    assert not is_upright(source / "a.png") and is_upright(new)
    with Image.open(new) as stored:
        assert np.array_equal(np.asarray(stored), np.asarray(open_image(source / "a.png")))


def test_masks_from_alpha_weigh_as_the_alpha_channel_does(source: Path, tmp_path: Path) -> None:
    picture = blocks(32, 32)
    picture.putalpha(Image.linear_gradient("L").resize((32, 32)))
    picture.save(source / "a.png")
    opaque = blocks(32, 32, 2)
    opaque.putalpha(255)
    opaque.save(source / "b.png")
    new = made(source, tmp_path / "new", Making(alpha_masks=True, flip=True))
    assert mask_file(new["b.png"]) is None
    weights = np.asarray(load_mask(open_image(new["a.png"]), new["a.png"], mask_file(new["a.png"]), False))
    expected = np.asarray(load_mask(picture, source / "a.png", None, True))
    np.testing.assert_allclose(weights, expected, atol=0.5 / 127 + 1e-6)
    mirrored = np.asarray(open_image(new["a_flip_att.png"]))
    assert np.array_equal(mirrored, np.asarray(open_image(new["a_att.png"]))[:, ::-1])


def test_a_mask_file_goes_along_unchanged(source: Path, tmp_path: Path) -> None:
    blocks(16, 16).save(source / "a.png")
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    grey.save(source / "a_att.bmp")
    new = made(source, tmp_path / "new", Making())
    assert np.array_equal(np.asarray(open_image(new["a_att.png"])), np.asarray(grey))


def test_flipped_and_smaller_copies_are_of_the_original(source: Path, tmp_path: Path) -> None:
    picture = blocks(64, 48)
    picture.save(source / "a.png")
    (source / "a.txt").write_text("words")
    new = made(source, tmp_path / "new", Making(flip=True, areas=[(32, 32), (512, 512)]))
    pictures = {path.stem: np.asarray(open_image(path)) for path in find_images(tmp_path / "new")}
    assert sorted(pictures) == ["a", "a+32x32", "a_flip", "a_flip+32x32"]  # nothing is enlarged
    assert np.array_equal(pictures["a_flip"], np.asarray(ImageOps.mirror(picture)))
    assert np.array_equal(pictures["a+32x32"], np.asarray(shrink(picture, (32, 32), 1, "area")))
    assert {new[f"{stem}.txt"].read_text() for stem in pictures} == {"words"}


@pytest.mark.parametrize("size", [(200, 100), (100, 333), (1000, 100), (151, 100)])
def test_parts_are_squares_that_overlap_and_leave_nothing_out(size: tuple[int, int]) -> None:
    boxes = split_boxes(size, 1.5)
    short, along = min(size), 0 if size[0] > size[1] else 1
    assert all(right - left == bottom - top == short for left, top, right, bottom in boxes)
    starts = [box[along] for box in boxes]
    assert starts[0] == 0 and starts[-1] + short == max(size)
    assert max(np.diff(starts)) <= short * (1 - OVERLAP) + 1
    assert split_boxes(size, 0) == split_boxes(size, 10) == [(0, 0, *size)]


def test_parts_are_cut_out_of_picture_and_mask(source: Path, tmp_path: Path) -> None:
    picture, mask = blocks(80, 32), blocks(80, 32, 3).convert("L")
    picture.save(source / "a.png")
    mask.save(source / "a_att.png")
    new = made(source, tmp_path / "new", Making(split=2))
    boxes = split_boxes((80, 32), 2)
    assert len(boxes) == 3 and "a.png" not in new
    for number, box in enumerate(boxes, start=1):
        assert np.array_equal(
            np.asarray(open_image(new[f"a_part{number}.png"])), np.asarray(picture.crop(box))
        )
        found = open_image(new[f"a_part{number}_att.png"])
        assert np.array_equal(np.asarray(found), np.asarray(mask.crop(box)))


def test_no_two_pictures_share_a_name(source: Path, tmp_path: Path) -> None:
    """Of one stem they would share caption and mask."""
    for seed, name in enumerate(("A.png", "a.jpg", "a_flip.png")):
        blocks(16, 16, seed).save(source / name)
    made(source, tmp_path / "new", Making(flip=True))
    stems = [path.stem.casefold() for path in find_images(tmp_path / "new")]
    assert len(stems) == len(set(stems)) == 6
    taken = {"cat"}
    assert [free_stem("Cat", taken), free_stem("cat", taken), free_stem("dog", taken)] == [
        "Cat-2",
        "cat-3",
        "dog",
    ]


def test_captions_are_read_beside_the_pictures_only(source: Path) -> None:
    blocks(8, 8).save(source / "a.png")
    for extension in ("/../x.txt", "txt", ""):
        with pytest.raises(BadInput, match="caption-extension"):
            survey(source, extension)


def test_damaged_pictures_are_named_and_left_out(source: Path, tmp_path: Path) -> None:
    blocks(64, 64).save(source / "a.jpg")
    (source / "b.jpg").write_bytes((source / "a.jpg").read_bytes()[:700])
    found = survey(source)
    assert [known.path.name for known in found.pictures] == ["a.jpg"]
    assert "b.jpg cannot be read" in found.damaged["b.jpg"]
    nothing = Image.new("RGBA", (8, 8))
    nothing.save(source / "c.png")
    (known,) = (known for known in survey(source).pictures if known.path.name == "c.png")
    (tmp_path / "new").mkdir()
    with pytest.raises(BadInput, match="transparent all over"):
        write_picture(known, Making(alpha_masks=True), tmp_path / "new", set())
    assert not list((tmp_path / "new").iterdir())
