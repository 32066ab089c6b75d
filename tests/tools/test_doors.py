"""A tool through its three doors: the same answer, and names that stay in their folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Embedding, write_safetensors
from lib_ti.hosts.base import Folders
from lib_ti.jobs import folders_under
from lib_ti.tools.embeddings import ConvertSettings, InspectSettings
from lib_ti.tools.tool import in_folders, list_files


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


def test_on_the_command_line(folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = str(folders.embeddings / "cats" / "tom.safetensors")
    assert main(["embedding", "convert", there, str(tmp_path / "tim.pt")]) == 0
    assert (tmp_path / "tim.pt").is_file()
    assert main(["embedding", "convert", there, str(tmp_path / "tim.pt")]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["embedding", "convert", there, str(tmp_path / "tim.pt"), "--overwrite"]) == 0
