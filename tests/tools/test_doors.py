"""A tool through its three doors: the same answer, and names that stay in their folders."""

from __future__ import annotations

from pathlib import Path

import fastapi
import pytest
import torch
from fastapi.testclient import TestClient

from lib_ti.api import PREFIX, make_router
from lib_ti.cli import build_parser, main
from lib_ti.core.errors import BadInput
from lib_ti.core.settings import options_of
from lib_ti.formats.embedding import Embedding, write_safetensors
from lib_ti.hosts.base import Folders
from lib_ti.jobs import folders_under
from lib_ti.tools.embedding_files import ConvertSettings
from lib_ti.tools.embeddings import InspectSettings
from lib_ti.tools.registry import TOOLS
from lib_ti.tools.tool import Tool, in_folders, list_files
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = folders_under(tmp_path)
    inside = folders.embeddings / "cats"
    inside.mkdir(parents=True)
    write_safetensors(Embedding("tom", {"clip_l": torch.ones(2, 768)}), inside / "tom.safetensors")
    return folders


def test_names_become_paths_in_their_folders(folders: Folders) -> None:
    there = folders.embeddings / "cats" / "tom.safetensors"
    for name in ("cats/tom.safetensors", "cats/tom"):
        assert in_folders(InspectSettings(name), folders).file == str(there)
    new = in_folders(ConvertSettings("cats/tom", "tim.pt"), folders)
    assert (new.file, new.to) == (str(there), str(folders.embeddings / "tim.pt"))
    assert list_files("embedding", folders) == ["cats/tom.safetensors"]
    assert list_files("new-embedding", folders) is None


@pytest.mark.parametrize(
    "name", ["../x.pt", "/etc/passwd", "C:x.pt", "a/b.pt", "..\\x.pt", "con.pt", "x.pt."]
)
def test_no_name_leaves_its_folder(folders: Folders, name: str) -> None:
    with pytest.raises(BadInput):
        in_folders(ConvertSettings("cats/tom", name), folders)
    with pytest.raises(BadInput):
        in_folders(InspectSettings(name), folders)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: f"{tool.group} {tool.name}")
def test_every_tool_has_its_options_on_the_command_line(
    tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a setting is called as an option that all commands have: that raises."""
    with pytest.raises(SystemExit, match="0"):
        build_parser().parse_args([tool.group, tool.name, "--help"])
    told = capsys.readouterr().out
    for name, (_, option, _) in options_of(tool.settings).items():
        assert (name if option.needed else f"--{name.replace('_', '-')}") in told


def test_on_the_command_line(folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = str(folders.embeddings / "cats" / "tom.safetensors")
    assert main(["embedding", "convert", there, str(tmp_path / "tim.pt")]) == 0
    assert (tmp_path / "tim.pt").is_file()
    assert main(["embedding", "convert", there, str(tmp_path / "tim.pt")]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["embedding", "convert", there, str(tmp_path / "tim.pt"), "--overwrite"]) == 0


def test_over_http(workshop: Workshop, place: StandalonePlace) -> None:
    """The same function, on names in the folder; a name that leaves it is refused with a sentence."""
    folder = place.folders().embeddings
    folder.mkdir(parents=True)
    write_safetensors(Embedding("zqx-tom", {"clip_l": torch.ones(2, 64)}), folder / "zqx-tom.safetensors")
    app = fastapi.FastAPI()
    app.include_router(make_router(workshop, lambda request: None))
    client, prune = TestClient(app), f"{PREFIX}/tools/embedding/prune"
    told = client.post(prune, json={"file": "zqx-tom", "to": "zqx-one", "keep": "2"})
    assert told.status_code == 200, told.text
    assert told.json()["kept"] == [2] and (folder / "zqx-one.safetensors").is_file()
    assert place.told == [("zqx-one.safetensors", False, "1 vectors, zqx-tom, vectors 2")]
    for wrong in ({"file": "../zqx-tom"}, {"to": "../x"}, {"to": "zqx-one"}, {"keep": "9"}, {"colour": 1}):
        refused = client.post(prune, json={"file": "zqx-tom", "to": "new", "keep": "1", **wrong})
        assert refused.status_code == 422 and refused.json()["error"].endswith(".")
    assert len(list(folder.iterdir())) == 2
