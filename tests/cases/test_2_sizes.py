"""Section 2: sides that no latents have are refused at once, and a saved job keeps its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_ti.cli import main


@pytest.mark.parametrize(
    ("option", "side", "nearest"),
    [("width", "8", "64"), ("height", "65", "64"), ("preview-width", "100", "96"), ("width", "70", "72")],
)
def test_a_side_that_cannot_be_is_refused_before_anything_is_loaded(
    option: str,
    side: str,
    nearest: str,
    pictures: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lib_ti.hosts.standalone.StandaloneHost.load", pytest.fail)
    line = ["train", "--json", "--name", "zqx-cat", "--images", pictures, f"--{option}", side]
    assert main(line) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert told.startswith(f"{option}: got {side}, expected a multiple of 8 pixels") and nearest in told
    assert not Path(".ti-studio/jobs").exists()


def test_a_job_goes_on_where_its_pictures_have_moved_to(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    template = tmp_path / "mine.txt"
    template.write_text("a thing, [name]")
    line = ["train", "--json", "--name", "zqx-cat", "--images", pictures, "--template", "mine.txt"]
    assert main([*line, "--steps", "2", "--preview-every", "0"]) == 0
    job = json.loads(capsys.readouterr().out)["job"]
    told = json.loads(Path(f".ti-studio/jobs/{job}/settings.json").read_text())["settings"]
    assert told["template"] == str(template)
    Path(pictures).rename("moved")
    again = ["train", "--json", "--resume", job]
    assert main([*again, "--images", "elsewhere"]) == 2
    assert "elsewhere" in capsys.readouterr().err
    assert main([*again, "--steps", "9"]) == 2
    assert "leave out --steps" in capsys.readouterr().err
    assert main([*again, "--images", "moved", "--model", "builtin"]) == 0
    Path("moved/a red thing 0.png").unlink()
    capsys.readouterr()
    assert main([*again, "--images", "moved"]) == 2
    assert "a red thing 0.png: gone" in capsys.readouterr().err
