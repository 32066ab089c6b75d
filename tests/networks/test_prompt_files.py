from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt import parse_tag
from lib_ti.networks.prompt_files import NetworkFolders, family_of_network, metadata_of


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


def test_what_no_tag_can_call_is_not_offered(folders: NetworkFolders, tmp_path: Path) -> None:
    for name in ("style:v2", " style", "style ", "sty<le", "style=v2, a"):
        put(tmp_path / "one" / f"{name}.safetensors")
    put(tmp_path / "one" / "made: today" / "in.safetensors")
    assert [*folders.files()] == ["in", "style=v2, a"]
    for name in folders.files():
        assert folders.find(parse_tag(f"{name}:0.5").name).stem == name


def test_a_file_is_found_by_its_hashes(folders: NetworkFolders, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "broken.safetensors").write_bytes(b"no")
    told = {"sshs_model_hash": "0123456789abcdef" * 4, "sshs_legacy_hash": "aabbccdd"}
    save_file({"x": torch.zeros(1)}, tmp_path / "one" / "cat.safetensors", told)
    put(tmp_path / "one" / "plain.safetensors")
    assert folders.with_hash("0123456789ab") == folders.with_hash("aabbccdd") == "cat"
    assert folders.with_hash("123456789abc") is folders.with_hash("aabbcc") is None


def test_the_family_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    path, key = tmp_path / "x.safetensors", "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"
    save_file({key: torch.zeros(1, 1)}, path)
    assert family_of_network(path) == "sdxl"
    save_file({key.replace("te1", "te"): torch.zeros(9, 9)}, path)
    assert family_of_network(path) is None
    with pytest.raises(BadInput, match="cannot be read"):
        family_of_network(tmp_path / "none.safetensors")


def test_metadata_are_read_anew_when_the_file_changes(tmp_path: Path) -> None:
    path = put(tmp_path / "x.safetensors", alias="before")
    assert metadata_of(path) == {"ss_output_name": "before"}
    put(path, alias="afterwards")
    assert metadata_of(path) == {"ss_output_name": "afterwards"}
    with pytest.raises(BadInput, match="cannot be read"):
        metadata_of(tmp_path / "none.safetensors")
