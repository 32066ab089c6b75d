"""studio.py: set-up with the real venv and the real pip, from wheels made here instead of a network."""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

STUDIO = Path(__file__).parents[1] / "studio.py"
REQUIREMENTS = STUDIO.parent / "requirements"
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals to a process group")

# Stands in for the package: says what it was given, counts Ctrl-C, ends with the code asked for.
COMMAND = """
import signal, sys, time
import part, words

received = []
signal.signal(signal.SIGINT, lambda *_: received.append("SIGINT"))
print(part.VERSION, *sys.argv[1:], flush=True)
if sys.argv[1] == "wait":
    sys.stdin.readline()
    print(*received)
    sys.exit(130)
sys.exit(7)
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("studio", STUDIO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


studio = load()


def make_wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """The smallest wheel that pip installs: one module."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = '{version}'\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def make_checkout(root: Path) -> None:
    (root / "studio.py").write_bytes(STUDIO.read_bytes())
    for folder in ("lib_ti", "requirements", "wheels"):
        (root / folder).mkdir()
    (root / "lib_ti" / "__init__.py").touch()
    (root / "lib_ti" / "cli.py").write_text(COMMAND)
    for group, requirement in (
        ("standalone", "part==1.0"),
        ("vocabulary", "words==1.0"),
        ("dev", "tool==1.0"),
    ):
        (root / "requirements" / f"{group}.txt").write_text(requirement)
    make_wheel(root / "wheels", "part", "1.0")
    make_wheel(root / "wheels", "part", "2.0")
    make_wheel(root / "wheels", "words", "1.0", "Requires-Dist: another-torch\n")
    make_wheel(root / "wheels", "tool", "1.0", "Requires-Dist: part\n")


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """``python studio.py ...`` where pip finds nothing but our wheels, as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, str(root / "studio.py"), *arguments],
        cwd=root,
        env={
            **os.environ,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "wheels",  # pip would split a path at its spaces
            "PIP_CONFIG_FILE": os.devnull,
            "PYTHONPATH": "/of/the/caller",
            "VIRTUAL_ENV": "/of/the/caller",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> SimpleNamespace:
    out, err = process.communicate(timeout=300)
    return SimpleNamespace(code=process.returncode, out=out, err=err)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after its first start."""
    root = tmp_path_factory.mktemp("checkout with a space")
    make_checkout(root)
    first = finish(start(root, "train", "a b"))
    assert (first.code, first.out) == (7, "1.0 train a b\n"), first.err
    assert "Ready after" in first.err
    return root


@pytest.fixture
def empty(tmp_path: Path) -> studio.Environment:
    """The environment of a checkout that was never started."""
    make_checkout(tmp_path)
    return studio.Environment(tmp_path)


def test_second_start_only_runs_the_command(checkout: Path) -> None:
    again = finish(start(checkout, "train", "--images", "c d"))
    assert (again.code, again.out, again.err) == (7, "1.0 train --images c d\n", "")


@POSIX
def test_ctrl_c_reaches_the_command_once(checkout: Path) -> None:
    process = start(checkout, "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "1.0 wait\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate("\n", timeout=60)
    assert (process.returncode, out, err) == (130, "SIGINT\n", "")


def test_changed_requirements_are_installed_over_the_old(checkout: Path) -> None:
    requirements = checkout / "requirements" / "standalone.txt"
    environment = studio.Environment(checkout)

    # What cannot be found changes nothing: the old requirements can still be run.
    requirements.write_text("part==3.0")
    failed = finish(start(checkout, "train"))
    assert (failed.code, failed.out) == (1, "")
    assert "Traceback" not in failed.err
    assert str(environment.log) in failed.err
    requirements.write_text("part==1.0")
    assert environment.missing(studio.TO_RUN) == []

    requirements.write_text("part==2.0")
    assert environment.missing(studio.TO_TEST) == ["standalone", "dev"]
    assert finish(start(checkout, "train")).out == "2.0 train\n"
    requirements.write_text("part==1.0")
    assert finish(start(checkout, "train")).out == "1.0 train\n"


@POSIX
def test_a_stopped_set_up_is_made_anew(empty: studio.Environment) -> None:
    process = start(empty.root, "train")
    while not (empty.folder / "pyvenv.cfg").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    stopped = finish(process)
    assert (stopped.code, stopped.out) == (130, "")
    assert "Traceback" not in stopped.err
    assert not empty.stamp.exists()

    half = empty.folder / "half"
    half.touch()
    assert finish(start(empty.root, "train")).out == "1.0 train\n"
    assert not half.exists()


def test_a_folder_that_pip_is_changing_is_not_trusted(checkout: Path) -> None:
    environment = studio.Environment(checkout)
    stamp = environment.stamp.read_bytes()
    environment._follow("Collecting part==1.0\n")
    assert environment.missing(studio.TO_RUN) == []
    environment._follow("Installing collected packages: part\n")
    assert environment.missing(studio.TO_RUN) == list(studio.TO_RUN)
    environment.stamp.write_bytes(stamp)


def test_an_environment_of_somebody_else_is_left_alone(empty: studio.Environment) -> None:
    theirs = empty.folder / "theirs"
    theirs.mkdir(parents=True)
    with pytest.raises(studio.SetupFailed, match="move or delete it"):
        empty.set_up(studio.TO_RUN)
    assert theirs.exists()


def test_two_starts_do_not_set_up_together(empty: studio.Environment) -> None:
    with empty._lock(), pytest.raises(studio.SetupFailed, match="wait for it"):
        empty.set_up(studio.TO_RUN)
    assert not empty.folder.exists()


def test_without_a_command_says_what_there_is(empty: studio.Environment) -> None:
    told = finish(start(empty.root))
    assert (told.code, told.err) == (0, "")
    for command in ("demo", "test", "--help"):
        assert f"python studio.py {command}" in told.out
    assert not empty.folder.exists()


def test_an_old_python_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert studio.main(["demo"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "needs Python 3.10 or 3.11" in told.err
    assert len(told.err.splitlines()) == 1


def test_an_old_python_can_read_the_file() -> None:
    tree = ast.parse(STUDIO.read_text(encoding="utf-8"), feature_version=(3, 7))
    assert not any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in ast.walk(tree)
    )


def test_a_new_python_is_tried(
    empty: studio.Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    monkeypatch.setattr(empty, "_run", lambda *command: empty.log.touch())
    empty.set_up(studio.TO_RUN)
    assert "newer than the tested" in capsys.readouterr().err
    assert empty.stamp.exists()


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk"),
        ("NewConnectionError: Failed to establish a new connection: Network is unreachable", "internet"),
        (
            "WARNING: Retrying after connection broken by 'ReadTimeoutError'\nNo matching distribution",
            "internet",
        ),
        ("The virtual environment was not created because ensurepip is not available", "python3-venv"),
        ("[Errno 13] Permission denied: '/opt/studio/.venv'", "your home"),
        ("ERROR: No matching distribution found for torch==2.13.0", "64-bit Python 3.11"),
        ("something nobody thought of", "report"),
    ],
)
def test_failures_have_a_remedy(output: str, advice: str) -> None:
    assert advice in studio.remedy(output)


def test_long_downloads_are_named(empty: studio.Environment, capsys: pytest.CaptureFixture[str]) -> None:
    empty._follow("  Downloading torch-2.13.0-cp311-none-macosx_11_0_arm64.whl (79.5 MB)\n")
    empty._follow("     Downloading https://host/nvidia_cublas-13.1-py3-none-any.whl.metadata (1.2 kB)\n")
    empty._follow("Downloading tqdm-4.70.1-py3-none-any.whl (78 kB)\n")
    assert capsys.readouterr().err == "  downloading torch, 79.5 MB\n"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, empty: studio.Environment) -> list[list[str]]:
    """What `studio.py test` would run, in order; "ruff format" fails with code 3 when told to."""
    ran: list[list[str]] = []

    def record(command: list[str], *_: object, **__: object) -> int:
        ran.append(command[2:])
        return 0

    monkeypatch.chdir(empty.root)
    monkeypatch.setattr(studio.Environment, "set_up", lambda _, groups: ran.append(list(groups)))
    monkeypatch.setattr(studio.subprocess, "call", record)
    monkeypatch.setattr(studio, "hand_over", record)
    return ran


def test_test_runs_the_checks_and_then_pytest(empty: studio.Environment, commands: list[list[str]]) -> None:
    assert studio.main(["test", "tests/core", "-x"], empty.root) == 0
    assert commands == [
        ["standalone", "vocabulary", "dev"],
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["pytest", "tests/core", "-x"],
    ]


def test_test_ends_at_a_failed_check(
    empty: studio.Environment, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio.subprocess, "call", lambda command, **_: 3 if "format" in command else 0)
    assert studio.main(["test"], empty.root) == 3
    assert not any("pytest" in command for command in commands)


@pytest.mark.parametrize("group", studio.TO_TEST)
def test_requirements_are_exact(group: str) -> None:
    lines = (REQUIREMENTS / f"{group}.txt").read_text(encoding="utf-8").splitlines()
    requirements = [line.partition(";")[0] for line in lines if not line.startswith("#")]
    assert requirements
    assert all(len(line.split("==")) == 2 for line in requirements)
