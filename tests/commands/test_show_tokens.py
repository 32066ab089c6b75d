from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lib_ti.cli import main


def test_prompts_are_shown_and_nothing_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("red, a [name], blue")
    data = tmp_path / "data"
    arguments = ["train", "--show-tokens", "--data", str(data), "--images", str(tmp_path), "--device", "cpu"]
    arguments += [
        "--name",
        "zqx-cat",
        "--vectors",
        "2",
        "--template",
        "captions",
        "--shuffle-tags",
        "--keep-tags",
        "1",
    ]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert set(lines[::2]) <= {"red, a zqx-cat, blue", "red, blue, a zqx-cat"}
    assert all("[zqx-cat 1/2] [zqx-cat 2/2]" in line and "vectors at " in line for line in lines[1::2])
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["tokens"]) == lines[::2]
    assert not (data / "embeddings").exists() and not (data / ".ti-studio" / "jobs").exists()
