"""Files that no reader has met before give a sentence, and never an error of Python's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json, parse_toml
from lib_ti.formats.embedding import read_embeddings
from lib_ti.formats.safetensors_file import read_metadata, read_shapes, read_tensors
from lib_ti.formats.streaming import open_tensors
from lib_ti.hosts.checkpoints import load_components
from lib_ti.networks.files import check_network, family_of_file, read_network
from lib_ti.networks.prompt_metadata import metadata_shown

FILES = Path(__file__).parent / "files" / "security"
READERS = (
    *(read_embeddings, read_network, check_network, family_of_file, open_tensors, load_components),
    *(read_tensors, read_metadata, read_shapes, metadata_shown),
)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("dt_F4", "has tensors of the type F4; expected one of"),
        ("ndim70", "expected at most 16 axes"),
        ("zero_huge", "no more numbers than a file can hold"),
    ],
)
def test_shapes_and_types_that_no_tensor_has(file: str, sentence: str, read: object) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        read(FILES / f"{file}.safetensors")  # type: ignore[operator]
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("shape", [(0, 2**62, 2), (0, *[2] * 16)])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
def test_shapes_that_no_tensor_of_a_pickle_has(tmp_path: Path, shape: tuple[int, ...], new: bool) -> None:
    path = tmp_path / "cat.pt"

    class Odd:
        def __reduce__(self) -> tuple[object, ...]:
            view = (0, shape, (1,) * len(shape))
            return torch._utils._rebuild_tensor_v2, (torch.empty(0).storage(), *view, False, {})

    torch.save({"cat": Odd()}, path, _use_new_zipfile_serialization=new)
    for read in (read_embeddings, read_network, open_tensors):
        with pytest.raises(BadInput, match="refused: "):
            read(path)  # type: ignore[operator]


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
def test_half_a_character_in_a_pickle(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "cat.pt"
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}, "name": "cat\ud800"}, path,
               _use_new_zipfile_serialization=new)  # fmt: skip
    (embedding,) = read_embeddings(path)
    assert embedding.metadata["name"] == "cat?"


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\uDFFF": 1}', '[["x\\ud83d y"]]'])
def test_half_a_character_in_json(text: str) -> None:
    with pytest.raises(ValueError, match="half a character"):
        parse_json(text)


def test_a_whole_character_of_two_halves_in_json() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("deep", ["[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65, "[" * 100_000])
def test_what_is_nested_without_end(deep: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(deep)
    assert parse_json("[" * 60 + "]" * 60)


@pytest.mark.parametrize("text", ["a." * 100 + "b = 1", '"a".' * 100 + "b = 1", "[" + "a." * 100 + "b]"])
def test_names_with_dots_without_end(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_toml(text)


def test_what_stands_in_quotes_may_have_dots_and_digits() -> None:
    told = "1. cat. " * 200 + "9" * 200
    assert parse_toml(f'prompt = "{told}"  # {told}')["prompt"] == told


def test_numbers_of_many_digits() -> None:
    for text in (f'{{"a": {"9" * 5000}}}', f"[{'9' * 101}]"):
        with pytest.raises(ValueError, match="digits"):
            parse_json(text)
    with pytest.raises(ValueError, match="digits"):
        parse_toml("a = " + "9" * 5000)
    assert json.loads("9" * 50) == parse_json("9" * 50)
