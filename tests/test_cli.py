"""The command line as a person and as a program use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib_ti.cli import main
from lib_ti.formats.embedding import Embedding, read_embedding, write_safetensors


@pytest.fixture
def word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedding in ``embeddings/`` of the present folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "embeddings" / "zqx-word.safetensors"
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    write_safetensors(Embedding(name="zqx-word", vectors={"clip_l": vectors}, step=9, metadata={}), path)
    return path


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """The last line of standard output, and nothing but it."""
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_inspect(word: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embedding", "inspect", "--json", str(word)]) == 0
    (found,) = answer(capsys)["embeddings"]
    assert (found["name"], len(found["vectors"]), found["step"]) == ("zqx-word", 2, 9)
    assert found["encoders"] == {"clip_l": 64}


def test_convert_and_back(word: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embedding", "convert", str(word), "zqx-word.pt"]) == 0
    assert main(["embedding", "convert", "zqx-word.pt", "again.safetensors"]) == 0
    one, other = read_embedding(word), read_embedding(Path("again.safetensors"))
    assert torch.equal(one.vectors["clip_l"], other.vectors["clip_l"])
    before = Path("zqx-word.pt").read_bytes()
    assert main(["embedding", "convert", str(word), "zqx-word.pt"]) == 2
    assert "exists" in capsys.readouterr().err
    assert Path("zqx-word.pt").read_bytes() == before
    assert main(["embedding", "convert", str(word), "x.png"]) == 2


def test_generate_finds_the_embeddings_that_are_there(word: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (word.parent / "notes.txt").write_text("not an embedding")
    short = ["--count", "2", "--steps", "2", "--seed", "5"]
    assert main(["generate", "--json", "a ZQX-word star", *short]) == 0
    told = answer(capsys)
    assert told["embeddings"] == ["zqx-word"]
    assert [Path(p).name for p in told["images"]] == ["5.png", "6.png"]
    with Image.open(told["images"][0]) as picture:
        assert picture.size == (64, 64)
    assert main(["generate", "--json", "a star", *short]) == 0
    told = answer(capsys)
    assert told["embeddings"] == []
    assert [Path(p).name for p in told["images"]] == ["5-1.png", "6-1.png"]


def test_train_a_pair_and_draw_with_it(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--method", "dreamartist", "--preset", "style", "--steps", "2", "--preview-every", "0"]
    assert main(["train", "--json", "--images", pictures, "--name", "zqx-pair", *arguments]) == 0
    told = answer(capsys)
    assert told["embedding"] == str(Path("embeddings/zqx-pair.safetensors"))
    assert told["negative_embedding"] == str(Path("embeddings/zqx-pair-neg.safetensors"))
    record = json.loads(Path(".ti-studio", "jobs", str(told["job"]), "settings.json").read_text())
    assert record["method"] == "dreamartist"
    assert (record["settings"]["guidance"], record["settings"]["steps"]) == ("5", 2)
    draw = ["generate", "--json", "a zqx-pair", "--negative", "zqx-pair-neg", "--count", "1"]
    assert main([*draw, "--steps", "2"]) == 0
    assert answer(capsys)["embeddings"] == ["zqx-pair", "zqx-pair-neg"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dance"], "dance"),
        (["train", "--name", "zqx", "--guidance", "3"], "guidance belongs to the method dreamartist"),
        (["train", "--name", "zqx", "--method", "dreamartist", "--guidance", "x"], "guidance 'x'"),
        (["train", "--method", "magic"], "magic"),
        (["generate", "a", "--count", "0"], "count"),
        (["generate", "a", "--model", "nowhere.safetensors"], "nowhere"),
        (["generate", "a", "--clip-skip", "9"], "Clip skip"),
        (["embedding", "inspect", "missing.pt"], "missing.pt"),
        (["bench", "quality", "--concepts", "unicorn"], "unicorn"),
        (["bench", "step", "--size", "100"], "64"),
        (["demo", "--concept", "unicorn"], "unicorn"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert said in json.loads(out)["error"]
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_bug_is_no_traceback_but_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lib_ti.tools.embeddings.read_embeddings", lambda path: 1 / 0)
    assert main(["embedding", "inspect", "x"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err and "Traceback" not in err
    assert "Traceback" in (tmp_path / ".ti-studio" / "error.log").read_text()
