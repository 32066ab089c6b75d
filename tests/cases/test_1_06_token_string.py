"""Row 1.6: the word that an embedding was trained as calls it, whatever its file is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.cli import main
from lib_ti.commands.sd_scripts_output import save_embedding
from lib_ti.formats.embedding import Embedding, read_embedding, write_pt, write_safetensors

SHORT = ("--count=1", "--steps=2")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def embedding(name: str) -> Embedding:
    vectors = torch.randn(3, 64, generator=torch.Generator().manual_seed(3))
    return Embedding(name, {"clip_l": vectors}, step=5)


def drawn(capsys: pytest.CaptureFixture[str], prompt: str, *more: str) -> tuple[bytes, dict[str, Any]]:
    assert main(["generate", "--json", prompt, *SHORT, *more]) == 0
    told = json.loads(capsys.readouterr().out)
    told["notes"] = [note for note in told["notes"] if " predicts " not in note]  # which is of the model
    return Path(told["images"][0]).read_bytes(), told


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_token_of_a_line_calls_the_file_of_another_name(
    suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_safetensors(embedding("mychar"), Path("mychar.safetensors"))
    file = Path(f"my_textual_inversion.{suffix}")
    save_embedding(Path("mychar.safetensors"), file)
    assert (read_embedding(file).name, read_embedding(file).token) == ("my_textual_inversion", "mychar")
    given = ("--embedding", str(file))
    by_name, told = drawn(capsys, "a photo of my_textual_inversion", *given)
    assert told["embeddings"] == ["my_textual_inversion"] and told["notes"] == []
    by_token, told = drawn(capsys, "a photo of mychar", *given)
    assert by_token == by_name and told["embeddings"] == ["mychar"]
    (note,) = told["notes"]
    assert note.startswith("mychar is the word that my_textual_inversion was trained as; a WebUI knows it by")
    without, told = drawn(capsys, "a photo of a star", *given)
    assert without != by_name and told["embeddings"] == []
    assert told["notes"] == [
        f"{file.name} is in no prompt, so it was not used; write my_textual_inversion or mychar into one."
    ]


def test_a_file_that_was_renamed_is_called_by_both_names(capsys: pytest.CaptureFixture[str]) -> None:
    Path("embeddings").mkdir()
    write_safetensors(embedding("zqx-cat"), Path("embeddings/zqx-cat.safetensors"))
    before, _ = drawn(capsys, "a zqx-cat")
    Path("embeddings/zqx-cat.safetensors").rename("embeddings/other-word.safetensors")
    after, told = drawn(capsys, "a zqx-cat")
    assert after == before and "other-word was trained as" in told["notes"][0]


def test_a_word_of_the_vocabulary_is_never_taken_over(capsys: pytest.CaptureFixture[str]) -> None:
    plain, _ = drawn(capsys, "a photo of a star")
    write_pt(embedding("star"), Path("zqx-word.pt"))  # its name stands inside the file too
    assert read_embedding(Path("zqx-word.pt")).token == "star"
    assert drawn(capsys, "a photo of a star", "--embedding", "zqx-word.pt")[0] == plain


def test_the_name_of_a_file_goes_before_what_another_was_trained_as(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("embeddings").mkdir()
    own = Embedding("zqx-cat", {"clip_l": torch.randn(1, 64)}, step=1)
    write_safetensors(own, Path("embeddings/zqx-cat.safetensors"))
    alone, _ = drawn(capsys, "a zqx-cat")
    write_pt(embedding("zqx-cat"), Path("embeddings/aaa.pt"))
    picture, told = drawn(capsys, "a zqx-cat")
    assert picture == alone and told["notes"] == []


def test_a_name_with_brackets_is_told_with_its_backslashes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("embeddings").mkdir()
    write_safetensors(embedding("zqx (v2)"), Path("embeddings/zqx (v2).safetensors"))
    told = drawn(capsys, "a zqx (v2)")[1]
    assert told["embeddings"] == []
    (note,) = told["notes"]
    assert "without backslashes the brackets of its name are emphasis" in note and r"zqx \(v2\)" in note
    told = drawn(capsys, r"a zqx \(v2\)")[1]
    assert told["embeddings"] == ["zqx (v2)"] and told["notes"] == []

    def remedies(prompt: str) -> str:
        line = ["embedding", "check", "--json", "--file=embeddings/zqx (v2).safetensors", "--model=builtin"]
        assert main([*line, "--prompt", prompt]) == 0
        found = json.loads(capsys.readouterr().out)["found"]
        return " ".join(finding["what to do"] for finding in found)

    assert r"Write zqx \(v2\) there" in remedies("a zqx (v2), blue")
    assert r"Write a blank after zqx \(v2\)." in remedies(r"a zqx \(v2\), blue")
    assert "zqx" not in remedies(r"a zqx \(v2\) , blue")
