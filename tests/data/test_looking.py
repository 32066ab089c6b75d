"""What is drawn as the cut is what training cuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from lib_ti.core.picture_settings import PictureSettings
from lib_ti.data.images import cut_box, load_image, open_image, to_pixels
from lib_ti.data.looking import draw_look, look_at


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(7, 5), (5, 7), (64, 64), (90, 31), (31, 90), (33, 66)])
@pytest.mark.parametrize("place", [(0.5, 0.5), (0, 1), (0.3, 0.8)])
def test_the_cut_is_pillows_fit(size: tuple[int, int], place: tuple[float, float]) -> None:
    for target in ((32, 32), (40, 24), (11, 22)):
        expected = ImageOps.fit(noise(*size), target, Image.Resampling.LANCZOS, centering=place)
        pixels = to_pixels(noise(*size), *target, place)
        found = ((pixels.permute(1, 2, 0).numpy() + 1) * 127.5).round()
        assert np.array_equal(found, np.asarray(expected))
        left, top, right, bottom = cut_box(size, target, place)
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        assert (right - left) * target[1] == pytest.approx((bottom - top) * target[0])


def test_every_picture_with_its_bucket_and_what_is_wrong(tmp_path: Path) -> None:
    noise(600, 400).save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("a cat")
    noise(100, 100).save(tmp_path / "2.png")
    noise(3000, 400).save(tmp_path / "3 panorama.png")
    (tmp_path / "4.png").write_bytes(b"no picture")
    looks = look_at(PictureSettings(images=str(tmp_path), width=512, height=512), 512)
    assert [(look.size, look.target) for look in looks[:3]] == [
        ((600, 400), (640, 384)),
        ((100, 100), (512, 512)),
        ((3000, 400), (1024, 256)),
    ]
    assert [look.warnings for look in looks] == [
        ["small: enlarged 1.1 times"],
        ["no caption", "small: enlarged 5.1 times"],
        ["47% of it is cut off"],
        ["cannot be read: cut off or damaged"],
    ]
    assert [round(look.lost, 3) for look in looks] == [0.1, 0, 0.467, 0]
    # The box is what is trained on, and the rest of it is not.
    one = looks[0]
    cropped = open_image(one.path).resize(one.target, Image.Resampling.LANCZOS, one.box)
    trained = load_image(one.path, *one.target)
    assert np.array_equal(
        ((trained.permute(1, 2, 0).numpy() + 1) * 127.5).round(), np.asarray(cropped, dtype=float)
    )


def test_the_drawing_is_dark_outside_the_box() -> None:
    white = Image.new("RGB", (400, 200), "white")
    drawn = np.asarray(draw_look(white, (100, 0, 300, 200), 200))
    assert drawn.shape == (100, 200, 3)
    assert np.all(drawn[:, :50] == 90) and np.all(drawn[:, 150:] == 90)
    assert np.all(drawn[2:-2, 52:148] == 255)
    assert np.all(drawn[:, 50] == (255, 59, 48)) and np.all(drawn[:, 149] == (255, 59, 48))
