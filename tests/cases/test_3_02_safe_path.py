"""Row 3.2: what lies in the folder where the user stands is not imported, on Python 3.10 and 3.11."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import studio

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("python", [sys.executable, "python3.10"])
@pytest.mark.parametrize("safe", ["", "1"])
def test_a_module_of_the_folder_is_not_run(python: str, safe: str, tmp_path: Path) -> None:
    found = shutil.which(python)
    if found is None or subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip(f"there is no {python}")
    for name in ("json", "argparse", "lib_ti"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger ran')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": safe}
    line = [found, "-c", studio.START, "--version"]
    run = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "ti-studio 0.1.0"), run.stderr
    beside = [found, "-m", "lib_ti.cli", "--version"]
    assert "a stranger ran" in (
        subprocess.run(
            beside,
            cwd=tmp_path,
            env={**environment, "PYTHONSAFEPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        ).stderr
    )  # or the test says nothing
