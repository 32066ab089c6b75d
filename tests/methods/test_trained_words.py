"""Which words of a folder there are, and which prompts they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import IS_NEGATIVE, Embedding, write_pt, write_safetensors
from lib_ti.methods.kind import Words
from lib_ti.methods.trained_words import find_words, list_words

VECTORS = {"clip_l": torch.ones(2, 768)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "older").mkdir()
    write_pt(Embedding("zqx", VECTORS), tmp_path / "older" / "zqx.pt")
    write_safetensors(Embedding("Pair", VECTORS), tmp_path / "Pair.safetensors")
    write_safetensors(Embedding("Pair-neg", VECTORS), tmp_path / "Pair-neg.safetensors")
    write_safetensors(Embedding("alone-neg", VECTORS), tmp_path / "alone-neg.safetensors")
    write_safetensors(Embedding("bad", VECTORS, 5, {IS_NEGATIVE: "true"}), tmp_path / "bad.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    (tmp_path / "Pair.preview.png").write_bytes(b"a card's picture")
    return tmp_path


def test_a_pair_is_listed_once_and_what_is_no_embedding_not_at_all(folder: Path) -> None:
    assert list_words(folder) == ["alone-neg", "bad", "broken", "Pair", "zqx"]
    assert list_words(folder / "nowhere") == []


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("zqx", Words("zqx")),
        ("Pair", Words("Pair", "Pair-neg")),
        ("alone-neg", Words("", "alone-neg")),
        ("bad", Words("", "bad")),
    ],
)
def test_names_and_metadata_say_which_prompts_words_are_for(folder: Path, word: str, words: Words) -> None:
    assert find_words(folder, word) == words


@pytest.mark.parametrize(("word", "told"), [("gone", "no embedding 'gone'"), ("broken", "broken.pt")])
def test_what_cannot_be_called_is_told(folder: Path, word: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        find_words(folder, word)
