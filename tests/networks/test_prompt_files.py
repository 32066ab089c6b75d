from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt_files import NetworkFolders, metadata_of


def put(path: Path, alias: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.zeros(1)}, path, {"ss_output_name": alias} if alias else None)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> NetworkFolders:
    return NetworkFolders([tmp_path / "one", tmp_path / "two", tmp_path / "missing"])


def test_files_are_found_by_name_and_alias(folders: NetworkFolders, tmp_path: Path) -> None:
    cat = put(tmp_path / "one" / "Cat.safetensors")
    dog = put(tmp_path / "two" / "animals" / "dog.v1.safetensors", alias="a dog")
    put(tmp_path / "two" / "Cat.safetensors")  # behind that of the first folder
    (tmp_path / "one" / "Cat.ckpt").write_bytes(b"")  # and this behind the safetensors file
    old = tmp_path / "two" / "old.pt"
    old.write_bytes(b"")
    put(tmp_path / "one" / ".hidden.safetensors")
    put(tmp_path / "one" / ".trash" / "old.safetensors")
    (tmp_path / "one" / "broken.safetensors").write_bytes(b"no")
    (tmp_path / "one" / "note.txt").write_text("no network")
    assert [*folders.files()] == ["broken", "Cat", "dog.v1", "old"]
    assert folders.find("old") == old and metadata_of(old) == {}
    for name, path in {"Cat": cat, "cat": cat, "Cat.safetensors": cat, "dog.v1": dog, "a dog": dog}.items():
        assert folders.find(name) == path


def test_an_unknown_name_is_told_with_the_nearest(folders: NetworkFolders, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no network 'watercolour' in .*missing\.$"):
        folders.find("watercolour")
    put(tmp_path / "one" / "watercolor.safetensors")
    with pytest.raises(BadInput, match="perhaps 'watercolor' is meant"):
        folders.find("watercolour")
    with pytest.raises(BadInput, match=r"no network '\.\./one/watercolor'"):
        folders.find("../one/watercolor")


def test_metadata_are_read_anew_when_the_file_changes(tmp_path: Path) -> None:
    path = put(tmp_path / "x.safetensors", alias="before")
    assert metadata_of(path) == {"ss_output_name": "before"}
    put(path, alias="afterwards")
    assert metadata_of(path) == {"ss_output_name": "afterwards"}
    with pytest.raises(BadInput, match="cannot be read"):
        metadata_of(tmp_path / "none.safetensors")
