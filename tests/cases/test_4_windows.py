"""Section 4: what Windows refuses, code pages that cannot say a name, and studio.py's own branches."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import save_file

import studio
from lib_ti.core.files import CannotWrite, write_text
from lib_ti.formats.embedding import Embedding, read_embedding, write_pt, write_safetensors
from tests.windows import install

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the rules are shown on Linux, by /proc")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch, tmp_path)
    return tmp_path


def tensors_file(path: Path) -> Path:
    save_file({"a": torch.arange(4096.0)}, path)
    return path


class TestRules:
    """The shim refuses first."""

    def test_a_file_that_is_open_stays(self, folder: Path) -> None:
        (folder / "one.txt").write_text("1")
        (folder / "two.txt").write_text("2")
        with (folder / "one.txt").open():
            for refused in (
                (folder / "one.txt").unlink,
                lambda: os.remove(folder / "one.txt"),
                lambda: (folder / "one.txt").rename(folder / "three.txt"),
                lambda: (folder / "two.txt").replace(folder / "one.txt"),
                lambda: os.replace(folder / "one.txt", folder / "two.txt"),
            ):
                with pytest.raises(PermissionError) as caught:
                    refused()
                assert caught.value.winerror == 32
        (folder / "two.txt").replace(folder / "one.txt")
        assert (folder / "one.txt").read_text() == "2"

    def test_a_file_that_is_mapped_stays(self, folder: Path) -> None:
        file = tensors_file(folder / "x.safetensors")
        with file.open("rb") as opened:
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        with pytest.raises(PermissionError, match="mapping"):
            file.unlink()
        mapping.close()
        with safetensors.safe_open(file, "pt") as content:
            tensor = content.get_tensor("a")
        with pytest.raises(PermissionError, match="mapping"):
            file.unlink()
        assert float(tensor.sum()) > 0
        del tensor, content
        file.unlink()

    def test_names_have_no_case_and_some_are_taken(self, folder: Path) -> None:
        (folder / "Cat.txt").write_text("cat")
        assert (folder / "cAT.TXT").read_text() == "cat" and (folder / "CAT.txt").exists()
        (folder / "cat.txt").write_text("dog")
        assert os.listdir(folder) == ["Cat.txt"] and (folder / "Cat.txt").read_text() == "dog"
        (folder / "dog.txt").write_text("")
        with pytest.raises(FileExistsError):
            (folder / "dog.txt").rename(folder / "CAT.txt")
        for name in ("con", "NUL.txt", "com1.safetensors", "a:b", "what?", "end."):
            with pytest.raises(OSError, match="not allowed"):
                (folder / name).write_text("")

    def test_long_paths_are_not_found(self, folder: Path) -> None:
        with pytest.raises(FileNotFoundError):
            (folder / ("x" * 250)).write_text("")


class TestReadersLetGo:
    @pytest.mark.parametrize("write", [write_safetensors, write_pt])
    def test_an_embedding_that_was_read_can_be_replaced(self, write: Any, folder: Path) -> None:
        file = folder / "zqx-cat.x"
        write(Embedding("zqx-cat", {"clip_l": torch.ones(2, 64)}), file)
        read = read_embedding(file)
        write(Embedding("zqx-cat", {"clip_l": torch.zeros(2, 64)}), file)
        assert float(read.vectors["clip_l"].sum()) == 128
        assert float(read_embedding(file).vectors["clip_l"].sum()) == 0

    def test_who_holds_a_file_is_said(self, folder: Path) -> None:
        file = folder / "one.txt"
        write_text(file, "before")
        with file.open(), pytest.raises(CannotWrite, match="another program has it open, such as a WebUI"):
            write_text(file, "after")
        assert os.listdir(folder) == ["one.txt"] and file.read_text() == "before"
        write_text(file, "after")
        assert file.read_text() == "after"

    def test_a_moment_is_waited_for(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A virus scanner looks at the file and lets go of it."""
        file = folder / "one.txt"
        write_text(file, "before")
        scanner = file.open()
        monkeypatch.setattr("lib_ti.core.files.time.sleep", lambda seconds: scanner.close())
        write_text(file, "after")
        assert file.read_text() == "after"

    def test_a_path_that_is_too_long_is_said(self, folder: Path) -> None:
        with pytest.raises(CannotWrite, match=r"its path has \d+ characters, too many"):
            write_text(folder / ("x" * 240), "text")


def test_jobs_cards_latents_publishing_and_tools_keep_the_rules() -> None:
    """Their own tests, with their folders on Windows."""
    whole = (
        "tools/test_embeddings.py",
        "tools/test_cards.py",
        "data/test_latent_store.py",
        "core/test_job.py",
    )
    networks = ("commands/test_lora.py", "formats/test_together.py")
    jobs = (
        "test_workshop.py::test_create_then_train_starts_from_what_was_created",
        "test_workshop.py::test_a_status_tells_everything_also_to_a_later_process",
        "test_workshop.py::test_the_programs_own_interrupt_stops_a_job",
    )
    files = [f"tests/{name}" for name in (*whole, *networks, *jobs)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.windows", *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("as_json", [False, True])
def test_names_are_said_in_any_code_page(encoding: str, as_json: bool, tmp_path: Path) -> None:
    name = "\N{CAT FACE} \u732b \u00fc.safetensors"
    write_safetensors(Embedding("x", {"clip_l": torch.ones(2, 64)}), tmp_path / name)
    line = ["-m", "lib_ti.cli", "embedding", "inspect", name, *(["--json"] if as_json else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    run = subprocess.run(
        [sys.executable, *line], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr.decode(encoding)
    said = run.stderr.decode(encoding) + run.stdout.decode(encoding)
    expected = name.removesuffix(".safetensors")
    if encoding != "utf-8":
        expected = expected.encode(encoding, "backslashreplace").decode(encoding)
    if as_json:
        assert json.loads(run.stdout.splitlines()[-1])["file"] == name
    else:
        assert expected in said


class TestStudioOnWindows:
    @pytest.fixture(autouse=True)
    def _windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(studio, "os", types.SimpleNamespace(**{**vars(os), "name": "nt"}))
        monkeypatch.setattr(studio, "sys", types.SimpleNamespace(**{**vars(sys), "platform": "win32"}))

    def test_its_python_is_where_windows_puts_it(self, tmp_path: Path) -> None:
        assert studio.Environment(tmp_path).python == tmp_path / ".venv" / "Scripts" / "python.exe"

    def test_the_command_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        handlers: list[object] = []
        monkeypatch.setattr(studio.signal, "signal", lambda number, handler: handlers.append(number))
        code = studio.hand_over([sys.executable, "-c", "import sys; sys.exit(7)"], dict(os.environ))
        assert code == 7 and handlers == [studio.signal.SIGINT]

    def test_one_set_up_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        taken: list[int] = []

        def locking(descriptor: int, mode: int, count: int) -> None:
            if taken:
                raise OSError(13, "taken")
            taken.append(descriptor)

        fake = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
        monkeypatch.setitem(sys.modules, "msvcrt", fake)
        environment = studio.Environment(tmp_path)
        with environment._lock():
            assert len(taken) == 1
            with pytest.raises(studio.SetupFailed, match="setting this up already"), environment._lock():
                pass
