from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.data.images import find_images, image_hash, load_image, mask_file

RANDOM = np.random.default_rng(7).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def loaded(path: Path, width: int, height: int) -> np.ndarray:
    """As (h, w, 3), 0..255."""
    tensor = load_image(path, width, height)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, height, width)
    return ((tensor.double() + 1) * 127.5).permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------------------- find_images


def test_images_are_sorted_naturally_and_others_are_left_out(tmp_path: Path) -> None:
    for name in ("10.png", "2.JPG", "a10.webp", "A2.jpeg", "b.bmp", "01.png", "1.png"):
        (tmp_path / name).touch()
    for name in (".hidden.png", "notes.txt", "a.gif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside.png").touch()
    names = [path.name for path in find_images(tmp_path)]
    assert names == ["01.png", "1.png", "2.JPG", "10.png", "A2.jpeg", "a10.webp", "b.bmp"]


def test_masks_are_no_pictures_but_found_beside_theirs(tmp_path: Path) -> None:
    for name in ("cat.jpg", "cat_att.png", "cat_att_proc.png", "dog_att.png", "bird.png"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path)] == ["bird.png", "cat.jpg", "dog_att.png"]
    assert mask_file(tmp_path / "cat.jpg") == tmp_path / "cat_att.png"
    assert mask_file(tmp_path / "bird.png") is None
    (tmp_path / "bird_att.jpeg").touch()
    assert mask_file(tmp_path / "bird.png") == tmp_path / "bird_att.jpeg"


def test_no_images_is_one_sentence_that_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"has no images directly in it \(other files: 0\); give a folder with png, jpg"
    ):
        find_images(tmp_path)
    (tmp_path / "a.gif").touch()
    (tmp_path / "b.txt").touch()
    with pytest.raises(BadInput, match=r"\(other files: 2\)"):
        find_images(tmp_path)
    with pytest.raises(BadInput, match="is a file, not a folder"):
        find_images(tmp_path / "a.gif")
    with pytest.raises(BadInput, match="does not exist"):
        find_images(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", RANDOM, **options)
    tensor = load_image(path, 7, 5)
    torch.testing.assert_close(tensor, torch.from_numpy(RANDOM / 127.5 - 1).permute(2, 0, 1).float())
    assert tensor.is_contiguous()


def test_black_is_minus_one_and_white_is_one(tmp_path: Path) -> None:
    pixels = np.zeros((1, 2, 3), np.uint8)
    pixels[0, 1] = 255
    assert load_image(save(tmp_path / "a.png", pixels), 2, 1)[0].tolist() == [[-1.0, 1.0]]


def test_the_middle_is_cut_out_of_a_wide_and_of_a_tall_image(tmp_path: Path) -> None:
    """Height 5 covers a 5 x 5 target at scale 1, so columns 1..5 of 7 remain; likewise rows."""
    wide = loaded(save(tmp_path / "wide.png", RANDOM), 5, 5)
    np.testing.assert_allclose(wide, RANDOM[:, 1:6], atol=1e-4)
    tall = loaded(save(tmp_path / "tall.png", RANDOM.transpose(1, 0, 2)), 5, 5)
    np.testing.assert_allclose(tall, RANDOM.transpose(1, 0, 2)[1:6], atol=1e-4)


def test_the_cut_is_central_to_half_a_pixel(tmp_path: Path) -> None:
    """50 of 101 columns: 25.5 are cut on each side, so pixel i shows column 25.5 + i of the ramp 2x."""
    ramp = np.broadcast_to((2 * np.arange(101, dtype=np.uint8))[None, :, None], (50, 101, 3))
    np.testing.assert_allclose(
        loaded(save(tmp_path / "a.png", ramp.copy()), 50, 50)[:, :, 0],
        np.broadcast_to(2 * (25.5 + np.arange(50)), (50, 50)),
        atol=1,
    )


def test_shrinking_covers_the_target(tmp_path: Path) -> None:
    """400 x 200 onto 100 x 100 is scale 1/2: columns 100..299 remain, 50 pixels of each of two bands."""
    bands = np.repeat(np.uint8([10, 90, 170, 250]), 100)
    row = loaded(save(tmp_path / "a.png", np.broadcast_to(bands, (200, 400)).copy()), 100, 100)[50, :, 0]
    np.testing.assert_allclose(row[4:46], 90, atol=1)
    np.testing.assert_allclose(row[54:96], 170, atol=1)
    assert row[49] < 130 < row[50]


def test_enlarging_covers_the_target(tmp_path: Path) -> None:
    """4 x 2 onto 80 x 80 is scale 40: the middle 2 x 2 pixels remain, each 40 pixels wide."""
    pixels = np.uint8([[0, 40, 200, 240], [0, 40, 200, 240]])
    row = loaded(save(tmp_path / "a.png", pixels), 80, 80)[40, :, 0]
    assert row[39] < 120 < row[40]
    np.testing.assert_allclose(row[39] + row[40], 240, atol=2)


def test_fine_detail_does_not_alias(tmp_path: Path) -> None:
    """Stripes of one pixel, shrunk 7.5-fold, are the mean grey everywhere away from the edges."""
    stripes = np.zeros((150, 150), np.uint8)
    stripes[:, ::2] = 255
    middle = loaded(save(tmp_path / "a.png", stripes), 20, 20)[3:-3, 3:-3]
    np.testing.assert_allclose(middle, 127.5, atol=2)


# The stored pixels whose upright form is ``upright``, for each value of the EXIF tag Orientation.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](RANDOM))
    np.testing.assert_allclose(loaded(save(tmp_path / "a.png", stored, exif=exif), 7, 5), RANDOM, atol=1e-4)


# ------------------------------------------------------------------------------------------- modes


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    grey = RANDOM[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_allclose(loaded(save(tmp_path / "l.png", grey), 7, 5), expected, atol=1e-4)
    Image.fromarray(grey > 127).save(tmp_path / "1.png")
    np.testing.assert_allclose(loaded(tmp_path / "1.png", 7, 5), (expected > 127) * 255, atol=1e-4)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.uint16([[0, 255, 257, 32768, 65535]]))
    np.testing.assert_allclose(loaded(path, 5, 1)[0, :, 0], [0, 1, 1, 128, 255], atol=1e-4)


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_transparency_lies_on_white(tmp_path: Path, name: str) -> None:
    pixels = np.uint8([[[200, 100, 0, 255], [200, 100, 0, 51], [9, 9, 9, 0]]])
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    expected = [[200, 100, 0], [244, 224, 204], [255, 255, 255]]  # 0.2 * colour + 0.8 * 255
    np.testing.assert_allclose(loaded(save(tmp_path / name, pixels, **options), 3, 1)[0], expected, atol=1)


def test_transparency_of_grey_and_of_a_palette(tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[[100, 255], [0, 0]]]), "LA").save(tmp_path / "la.png")
    np.testing.assert_allclose(loaded(tmp_path / "la.png", 2, 1)[0], [[100] * 3, [255] * 3], atol=1e-4)

    palette = Image.fromarray(np.uint8([[0, 1, 2]]), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    np.testing.assert_allclose(loaded(tmp_path / "p.png", 3, 1)[0], expected, atol=1e-4)
    palette.save(tmp_path / "pt.png", transparency=1)
    expected[1] = [255, 255, 255]
    np.testing.assert_allclose(loaded(tmp_path / "pt.png", 3, 1)[0], expected, atol=1e-4)


def test_colour_beneath_transparency_does_not_bleed_when_scaled(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)  # transparent black around an opaque white square
    pixels[20:44, 20:44] = 255
    assert loaded(save(tmp_path / "a.png", pixels), 24, 24).min() > 254


def test_cmyk_jpeg(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    ink.save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(loaded(tmp_path / "a.jpg", 16, 16)[8, 8], [255, 0, 0], atol=4)


@pytest.mark.parametrize(("name", "form"), [("a.png", "PNG"), ("a.webp", "WEBP"), ("a.jpg", "MPO")])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, name: str, form: str) -> None:
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    red.save(tmp_path / name, form, save_all=True, append_images=[blue])
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 2
    np.testing.assert_allclose(loaded(tmp_path / name, 16, 16)[8, 8], [255, 0, 0], atol=6)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_cut_file_is_named(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole.{suffix}", RANDOM.repeat(8, 0).repeat(8, 1)).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for length in (0, 1, 10, 30, len(whole) // 2, len(whole) - len(whole) // 10):
        cut.write_bytes(whole[:length])
        with pytest.raises(
            BadInput, match=rf"cut\.{suffix} cannot be read as a PNG, JPEG, WEBP or BMP image"
        ):
            load_image(cut, 16, 16)


def test_damaged_exif_and_missing_file(tmp_path: Path) -> None:
    exif = b"Exif\0\0not a TIFF header"
    with pytest.raises(BadInput, match=r"a\.png"):
        load_image(save(tmp_path / "a.png", RANDOM, exif=exif), 8, 8)
    with pytest.raises(BadInput, match=r"gone\.png"):
        load_image(tmp_path / "gone.png", 8, 8)


def test_only_the_four_formats_are_parsed_whatever_the_name(tmp_path: Path) -> None:
    for form in ("GIF", "TIFF", "PPM", "TGA"):
        buffer = io.BytesIO()
        Image.fromarray(RANDOM).save(buffer, form)
        path = tmp_path / f"{form}.png"
        path.write_bytes(buffer.getvalue())
        with pytest.raises(BadInput, match=form):
            load_image(path, 8, 8)


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RANDOM)
    assert image_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(BadInput, match="gone"):
        image_hash(tmp_path / "gone.png")
