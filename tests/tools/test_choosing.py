"""The VAE decides: of the built-in model, whose world has no noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.data.images import load_image
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.tinyworld.render import render
from lib_ti.tinyworld.world import VALUES, random_scene
from lib_ti.tools.choosing import vae_error
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace

PLAIN, NOISY = ("a plain.png", "c plain.png"), ("b noisy.png", "d noisy.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in PLAIN:
        render(random_scene(generator, VALUES)).save(folder / name)
    for name in NOISY:
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / name)
    (folder / "a plain.txt").write_text("words")
    (folder / "a plain_att.png").write_bytes((folder / "c plain.png").read_bytes())
    (folder / "e.png").write_bytes(b"damaged")
    return folder


def test_those_that_come_back_are_chosen_and_copied_to_the_byte(
    workshop: Workshop, place: StandalonePlace, folder: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    told = workshop.use("images", "choose", {"images": str(folder), "best": 2})
    assert not told.written and not place.folders().datasets.exists()
    assert {row["file"] for row in told.told["pictures"] if row["chosen"]} == set(PLAIN)
    errors = [row["error"] for row in told.told["pictures"]]
    assert errors == sorted(errors) and errors[2] > 4 * errors[1]
    done = workshop.use("images", "choose", {"images": str(folder), "best": 2, "to": "plain"})
    assert {path.name for path in done.written} == set(PLAIN) and done.told == told.told
    new = {path.name: path.read_bytes() for path in (place.folders().datasets / "plain").iterdir()}
    assert new == {
        **{name: before[name] for name in (*PLAIN, "a plain.txt", "a plain_att.png")},
        "c plain.txt": b"c plain",
    }
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(BadInput, match="exists"):
        workshop.use("images", "choose", {"images": str(folder), "to": "plain"})


def test_the_error_is_the_vaes(host: StandaloneHost, folder: Path) -> None:
    pixels = load_image(folder / PLAIN[0], 64, 64)
    with torch.no_grad():
        again = host.decode(host.encode_images(pixels[None]).mean)[0].clamp(-1, 1)
    levels = ((again - pixels) * 127.5).numpy().astype(float)
    assert vae_error(host, pixels) == pytest.approx(np.sqrt((levels**2).mean()), rel=1e-4)


def test_a_stop_writes_nothing(workshop: Workshop, place: StandalonePlace, folder: Path) -> None:
    asked = iter([False])  # when the tool begins
    place.interrupted = lambda: next(asked, True)  # type: ignore[method-assign]
    answer = workshop.use("images", "choose", {"images": str(folder), "to": "plain"})
    assert answer.stopped and not place.folders().datasets.exists()
