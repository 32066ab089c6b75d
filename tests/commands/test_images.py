"""``ti-studio images``, as a person uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_ti.cli import main
from lib_ti.data.shrinking import shrink


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green to the bottom: every distortion shows."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).round().astype(np.uint8))


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
