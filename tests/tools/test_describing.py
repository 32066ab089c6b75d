"""Captions by interrogators. The one here is a stand-in, which says how bright a picture is: real ones take
weights of hundreds of megabytes; ``tests/host/test_describing.py`` asks those of a real WebUI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.data.captions import name_for_caption, read_caption
from lib_ti.data.images import find_images
from lib_ti.hosts.base import Describing
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace


@pytest.fixture
def asked(place: StandalonePlace, monkeypatch: pytest.MonkeyPatch) -> list[Describing]:
    """What the interrogators of the place are asked."""
    asked = []

    @contextmanager
    def describer(describing: Describing) -> Iterator[Callable[[Image.Image], str]]:
        asked.append(describing)
        yield lambda image: f"{describing.by} {image.convert('L').getpixel((0, 0))}"

    monkeypatch.setattr(place.host, "describer", describer)
    return asked


@pytest.fixture
def shades(place: StandalonePlace) -> Path:
    """A data set whose captions are a name, a name repeated, and one of somebody's own."""
    folder = place.folders().datasets / "shades"
    folder.mkdir(parents=True)
    for level in (10, 20, 30):
        Image.new("RGB", (8, 8), (level,) * 3).save(folder / f"IMG_{level}_flip.png")
    (folder / "IMG_20_flip.txt").write_text("IMG_20")
    (folder / "IMG_30_flip.txt").write_text("my own words")
    return folder


def captions(folder: Path) -> list[str]:
    return [read_caption(path) for path in find_images(folder)]


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ("keep", ["deepbooru 10", "deepbooru 20", "my own words"]),
        ("replace", ["deepbooru 10", "deepbooru 20", "deepbooru 30"]),
        ("write before", ["deepbooru 10", "deepbooru 20", "deepbooru 30, my own words"]),
        ("write after", ["deepbooru 10", "deepbooru 20", "my own words, deepbooru 30"]),
    ],
)
def test_text_files(
    workshop: Workshop, shades: Path, asked: list[Describing], existing: str, expected: list[str]
) -> None:
    answer = workshop.use("images", "caption", {"images": "shades", "existing": existing, "escape": False})
    assert captions(shades) == expected
    assert len(answer.written) == 2 + (existing != "keep")
    assert asked == [Describing("deepbooru", 0.75, by_score=True, spaces=True, escape=False)]


def test_both_are_asked_of_every_picture(workshop: Workshop, shades: Path, asked: list[Describing]) -> None:
    workshop.use("images", "caption", {"images": "shades", "by": "both"})
    assert captions(shades)[0] == "deepbooru 10, blip 10"
    assert [describing.by for describing in asked] == ["deepbooru", "blip"]


def test_file_names_go_into_a_new_data_set(
    workshop: Workshop, place: StandalonePlace, shades: Path, asked: list[Describing]
) -> None:
    before = {path.name: path.read_bytes() for path in shades.iterdir()}
    answer = workshop.use("images", "caption", {"images": "shades", "named": "named"})
    new = place.folders().datasets / "named"
    assert sorted(path.name for path in new.iterdir()) == [
        "00001- deepbooru 10.png",
        "00002- deepbooru 20.png",
        "00003- my own words.png",
    ]
    assert sorted(answer.written) == sorted(new.iterdir())
    assert captions(new) == ["deepbooru 10", "deepbooru 20", "my own words"]
    assert {path.name: path.read_bytes() for path in shades.iterdir()} == before


@pytest.mark.parametrize(
    ("caption", "read"),
    [
        ("1girl, hat, smile", "1girl, hat, smile"),
        (r"hat \(red\)", "hat (red)"),
        ('a/b\\c: "x" <y>|?*\n', "abc x y"),
        ("-dash and 2 dots..", "-dash and 2 dots"),
        ("katze, größe, " + "猫" * 100, "katze, größe"),
        ("x" * 300, "x" * 200),
        ("", ""),
    ],
)
def test_a_caption_as_a_name_is_read_back(caption: str, read: str) -> None:
    name = name_for_caption(7, caption)
    assert len(name.encode()) < 240
    assert read_caption(Path(f"/nowhere/{name}.png")) == read


def test_a_stop_keeps_what_is_written(
    workshop: Workshop, place: StandalonePlace, shades: Path, asked: list[Describing]
) -> None:
    pressed = iter([False, False])  # when the tool begins, and before the first picture
    place.interrupted = lambda: next(pressed, True)  # type: ignore[method-assign]
    answer = workshop.use("images", "caption", {"images": "shades"})
    assert answer.stopped and [path.name for path in answer.written] == ["IMG_10_flip.txt"]
    assert captions(shades) == ["deepbooru 10", "IMG_20", "my own words"]


def test_alone_there_is_no_interrogator(workshop: Workshop, shades: Path) -> None:
    with pytest.raises(BadInput, match="there is no deepbooru here: captions come from a WebUI"):
        workshop.use("images", "caption", {"images": "shades"})
    assert main(["images", "caption", str(shades)]) == 2
    assert captions(shades) == ["IMG_10_flip", "IMG_20", "my own words"]
