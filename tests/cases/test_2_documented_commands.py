"""Section 2: every command that README and docs print does what it says, on the built-in model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.documented import WHY_NOT, commands_in

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PRINTED = {path: commands_in(path.read_text(encoding="utf-8")) for path in DOCUMENTS}


def test_commands_are_found() -> None:
    block, inline = "```\npython studio.py demo  # does it\n```\n", "`embedding mix 'a + b'\nNEW`, `a b`"
    assert commands_in(block + inline) == ["demo", "embedding mix 'a + b' NEW"]
    assert sum(map(len, PRINTED.values())) > 40


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if PRINTED[path]], ids=lambda path: path.name)
def test_every_printed_command_runs(path: Path, tmp_path: Path) -> None:
    commands = [command for command in PRINTED[path] if command not in WHY_NOT]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("documented.py")), path.name, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    ended = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"command"')]
    assert [one["command"] for one in ended][-len(commands) :] == commands, done.stderr[-4000:]
    assert [one["command"] for one in ended if one["code"]] == [], done.stderr[-4000:]
