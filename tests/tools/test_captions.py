from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace


@pytest.fixture
def cats(place: StandalonePlace) -> Path:
    """A data set of two pictures, one of which has its file name as its caption."""
    folder = place.folders().datasets / "cats"
    folder.mkdir(parents=True)
    for name in ("1 a red cat.png", "2.png"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "2.txt").write_text("a blue cat, grass")
    return folder


def captions(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


def test_captions_are_edited_together(workshop: Workshop, cats: Path) -> None:
    values = {"images": "cats", "find": "cat", "replace": "zqx-cat", "add": "grass, day"}
    pictures = {path: path.read_bytes() for path in cats.glob("*.png")}
    told = workshop.use("images", "edit-captions", {**values, "only_tell": True})
    assert captions(cats) == {"2.txt": "a blue cat, grass"} and not told.written
    done = workshop.use("images", "edit-captions", values)
    assert done.told == told.told and done.sentence == "Changed 2 of 2 captions."
    assert captions(cats) == {
        "1 a red cat.txt": "a red zqx-cat, grass, day",
        "2.txt": "a blue zqx-cat, grass, day",
    }
    assert list(done.told["tags"].items())[:2] == [("day", 2), ("grass", 2)]
    assert {path: path.read_bytes() for path in pictures} == pictures
    again = workshop.use("images", "edit-captions", {"images": "cats", "prepend": "day"})
    assert again.sentence == "Changed 0 of 2 captions."


def test_one_caption_is_written(workshop: Workshop, cats: Path) -> None:
    values = {"images": "cats", "picture": "1 a red cat.png", "caption": " eine Katze über Gras\n"}
    (file,) = workshop.use("images", "write-caption", values).written
    assert file == cats / "1 a red cat.txt" and file.read_bytes() == "eine Katze über Gras".encode()


@pytest.mark.parametrize("picture", ["../cats/2.png", "2.txt", "3.png", "2", "/2.png"])
def test_only_pictures_of_the_data_set_have_captions(workshop: Workshop, cats: Path, picture: str) -> None:
    with pytest.raises(BadInput, match="is no picture of"):
        workshop.use("images", "write-caption", {"images": "cats", "picture": picture, "caption": "x"})
    assert captions(cats) == {"2.txt": "a blue cat, grass"}


@pytest.mark.parametrize("verb", ["edit-captions", "write-caption"])
def test_a_page_writes_captions_in_data_sets_only(
    workshop: Workshop, cats: Path, tmp_path: Path, verb: str
) -> None:
    picture = {"picture": "2.png"} if verb == "write-caption" else {"add": "x"}
    for name in (str(cats), "../datasets/cats", str(tmp_path), "dogs"):
        with pytest.raises(BadInput, match="none of the datasets"):
            workshop.use("images", verb, {"images": name, **picture})


def test_on_the_command_line_any_folder(cats: Path) -> None:
    assert main(["images", "edit-captions", str(cats), "--remove", "grass", "--sort", "by name"]) == 0
    assert captions(cats) == {"2.txt": "a blue cat"}
    assert main(["images", "write-caption", str(cats), "2.png", "--caption", "x"]) == 0
    assert captions(cats) == {"2.txt": "x"}
    assert main(["images", "edit-captions", str(cats), "--find", "(", "--regex"]) == 2
