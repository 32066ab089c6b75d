"""install.py as a WebUI runs it: a program of its own, with the WebUI's root first on the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[1] / "install.py"
TRAP = "from pathlib import Path\nPath(__file__).with_suffix('.touched').touch()\nraise SystemExit(3)\n"


def start(webui: Path) -> subprocess.CompletedProcess[str]:
    # -S hides the packages of the environment of the tests: only what lies in the WebUI is there.
    return subprocess.run(
        f'"{sys.executable}" -S "{INSTALL}"',
        shell=True,
        cwd=webui,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(webui), ""))},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    """A WebUI in which importing the installer's helpers, pip or anything heavy leaves a trace."""
    for module in ("launch", "pip", "torch", "diffusers", "gradio"):
        (tmp_path / f"{module}.py").write_text(TRAP)
    return tmp_path


def test_names_what_is_optional_and_missing(webui: Path) -> None:
    done = start(webui)
    assert (done.returncode, done.stderr) == (0, "")
    assert "matplotlib" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert not list(webui.glob("*.touched"))


def test_is_silent_when_nothing_is_missing(webui: Path) -> None:
    (webui / "matplotlib.py").write_text(TRAP)
    done = start(webui)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(webui.glob("*.touched"))


def test_needs_no_launch_module(tmp_path: Path) -> None:
    done = start(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_traps_spring(webui: Path) -> None:
    """The two tests above would notice an installer that calls pip."""
    trapped = subprocess.run([sys.executable, "-m", "pip"], cwd=webui, check=False)
    assert trapped.returncode == 3
    assert (webui / "pip.touched").exists()
