from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.data.images import open_image
from lib_ti.data.masks import load_mask, to_weights


def save(path: Path, pixels: object) -> Path:
    Image.fromarray(np.uint8(pixels)).save(path)
    return path


def weights(path: Path, file: Path | None = None, alpha: bool = False) -> list[list[float]] | None:
    mask = load_mask(open_image(path), path, file, alpha)
    return None if mask is None else np.asarray(mask).tolist()


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    return save(tmp_path / "a.png", [[10, 20, 30, 40, 50]])


def test_dreamartists_scale(tmp_path: Path, grey: Path) -> None:
    """0 %, 25 %, 50 %, 75 % and 100 % of white weigh 0, 0.5, 1, 3 and 5."""
    file = save(tmp_path / "a_att.png", [[0, 63.5, 127, 191, 255]])
    assert weights(grey, file) == [pytest.approx([0, 63 / 127, 1, 3, 5])]


def test_the_alpha_channel_counts_where_it_is_asked_for(tmp_path: Path, grey: Path) -> None:
    path = save(tmp_path / "b.png", [[[9, 9, 9, 0], [9, 9, 9, 51], [9, 9, 9, 255]]])
    assert weights(path, alpha=True) == [pytest.approx([0, 0.2, 1])]
    assert weights(path) is None
    assert weights(grey, alpha=True) is None
    palette = Image.fromarray(np.uint8([[0, 1]]), "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "p.png", transparency=1)
    assert weights(tmp_path / "p.png", alpha=True) == [[1, 0]]
    file = save(tmp_path / "b_att.png", [[255, 255, 127]])
    assert weights(path, file, alpha=True) == [pytest.approx([0, 1, 1])]


def test_a_mask_in_which_nothing_counts_is_refused(tmp_path: Path, grey: Path) -> None:
    file = save(tmp_path / "a_att.png", [[0, 0, 0, 0, 0]])
    with pytest.raises(BadInput, match=r"a_att\.png is black all over, so nothing of a\.png would count"):
        weights(grey, file)
    path = save(tmp_path / "b.png", np.zeros((2, 2, 4)))
    with pytest.raises(BadInput, match=r"b\.png is transparent all over"):
        weights(path, alpha=True)


def test_a_mask_of_another_size_is_laid_over_the_whole_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((40, 60)))
    file = save(tmp_path / "a_att.png", np.repeat([[0, 127]], 20, axis=0).repeat(15, axis=1))
    mask = np.asarray(load_mask(open_image(path), path, file, False))
    assert mask.shape == (40, 60)
    assert not mask[:, :25].any() and (mask[:, 35:] == 1).all()


def test_weights_are_averages_of_their_pixels_with_a_mean_of_one() -> None:
    pixels = np.random.default_rng(0).random((64, 96), dtype=np.float32) * 5
    found = to_weights(Image.fromarray(pixels), 12, 8, (0.5, 0.5))
    blocks = torch.from_numpy(pixels.reshape(8, 8, 12, 8).mean((1, 3)))
    torch.testing.assert_close(found, (blocks / blocks.mean())[None])
    assert float(found.mean()) == pytest.approx(1)


def test_the_mask_is_cut_where_the_picture_is() -> None:
    pixels = np.zeros((64, 128), np.float32)
    pixels[:, 64:] = np.arange(64)
    right = to_weights(Image.fromarray(pixels), 8, 8, (1.0, 0.5))[0, 0]
    torch.testing.assert_close(right, (torch.arange(8) * 8 + 3.5) / 31.5)
    assert not to_weights(Image.fromarray(pixels), 8, 8, (0.0, 0.5)).any()
