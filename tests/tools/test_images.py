"""The tools for pictures, as a page and a command line use them; originals stay as they are to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib_ti.cli import main
from lib_ti.core.errors import BadInput, Interrupted
from lib_ti.data.images import find_images
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under
from lib_ti.tools.images import MakeSettings, make
from lib_ti.tools.tool import Context
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace, ended


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Four pictures: two are the same, one is alike; a caption, a broken file. All of it stays as it is."""
    folder = tmp_path / "source"
    folder.mkdir()
    picture(1).save(folder / "a red thing.png")
    picture(1).save(folder / "b.bmp")
    picture(1, (32, 24)).save(folder / "c.jpg", quality=80)
    picture(2).save(folder / "d.png")
    (folder / "d.txt").write_text("blue, thing")
    (folder / "e.png").write_bytes((folder / "d.png").read_bytes()[:300])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    yield folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_becomes_a_data_set_that_can_be_trained_at_once(
    workshop: Workshop, place: StandalonePlace, source: Path, settings: dict[str, Any]
) -> None:
    answer = workshop.use("images", "make", {"source": str(source), "to": "things", "flip": True})
    folder = place.folders().datasets / "things"
    assert [path.name for path in answer.written] == [
        *("a red thing.png", "a red thing_flip.png", "c.jpg", "c_flip.png", "d.png", "d_flip.png"),
    ]
    assert set(answer.written) == set(find_images(folder))
    assert answer.told["duplicates"] == [
        "b.bmp has the same pixels as a red thing.png",
        "c.jpg looks like a red thing.png",
    ]
    assert answer.told["skipped"][1] == "b.bmp has the same pixels as a red thing.png"
    assert "e.png cannot be read" in answer.told["skipped"][0]
    assert (folder / "a red thing_flip.txt").read_text() == "a red thing"
    assert workshop.files("dataset") == ["things"]
    with pytest.raises(BadInput, match="exists"):
        workshop.use("images", "make", {"source": str(source), "to": "things"})
    job = workshop.train({**settings, "images": "things", "steps": 2, "preview_every": 0})
    assert ended(workshop, job).status == "done"
    assert "6 pictures" in " ".join(workshop.status(job).messages)


@pytest.mark.parametrize(("leave_out", "stay"), [("none", 4), ("exact", 3), ("alike", 2)])
def test_duplicates_are_left_out_as_asked(
    workshop: Workshop, source: Path, leave_out: str, stay: int
) -> None:
    answer = workshop.use("images", "make", {"source": str(source), "to": "x", "leave_out": leave_out})
    assert len(answer.written) == stay


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "C:x", "x."])
def test_a_page_makes_data_sets_in_their_folder_only(workshop: Workshop, source: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be a name"):
        workshop.use("images", "make", {"source": str(source), "to": name})
    with pytest.raises(BadInput, match="cannot be a name"):
        workshop.use("images", "resize", {"source": str(source), "target": name})


@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_stop_leaves_nothing(host: StandaloneHost, source: Path, tmp_path: Path, after: int) -> None:
    asked = iter(range(100))
    context = Context(
        lambda: next(asked) >= after,
        lambda done, of: None,
        nullcontext,
        look=lambda: host,
        folders=folders_under(tmp_path),
    )
    with pytest.raises(Interrupted, match="nothing was written"):
        make(MakeSettings(str(source), str(tmp_path / "new")), context)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_looking_tells_and_shows(workshop: Workshop, source: Path) -> None:
    answer = workshop.use("images", "look", {"images": str(source), "width": 48, "height": 48, "side": 32})
    assert answer.told["warnings"] == [
        "b.bmp: has the same pixels as a red thing.png",
        "c.jpg: small: enlarged 1.8 times; looks like a red thing.png",
        "e.png: cannot be read: cut off or damaged",
    ]
    assert answer.told["tags"] == {"a red thing": 1, "b": 1, "blue": 1, "c": 1, "e": 1, "thing": 1}
    assert [shown.size for shown, _ in answer.pictures] == [(32, 24)] * 4
    page = {"images": str(source), "first": 4, "count": 1, "duplicates": False}
    answer = workshop.use("images", "look", page)
    assert [row["file"] for row in answer.told["pictures"]] == ["d.png"]
    assert answer.told["count"] == 5 and len(answer.pictures) == 1


def test_on_the_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["images", "look", str(source), "--sheet", str(sheet), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["count"] == 5
    with Image.open(sheet) as drawn:
        assert drawn.width > 4 * 64
    assert main(["images", "make", str(source), str(tmp_path / "new"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["written"]) == 3
    assert main(["images", "make", str(source), str(tmp_path / "new")]) == 2
    assert main(["images", "make", str(source), str(tmp_path / "other"), "--split", "0.5"]) == 2
    assert not (tmp_path / "other").exists()
