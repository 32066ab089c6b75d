"""Of several who make one new name at the same time, one gets it, and the others are told."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.files import new_files, new_folder, reserved, write_atomically, write_text
from lib_ti.core.job import Job
from lib_ti.formats.embedding import Embedding, read_embedding, write_safetensors
from lib_ti.formats.together import write_together
from lib_ti.networks.files import write_network
from lib_ti.tools import embedding_files
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace, ended

AT_ONCE, ROUNDS = 4, 25


def together(act: Callable[[int], object]) -> list[object]:
    """What ``AT_ONCE`` threads get from ``act``, all begun at one moment; of whoever fails its BadInput."""
    barrier, got = threading.Barrier(AT_ONCE), list[object]([None] * AT_ONCE)

    def run(number: int) -> None:
        barrier.wait()
        try:
            got[number] = act(number)
        except BadInput as error:
            got[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def winners(got: list[object]) -> list[object]:
    assert all(one is not None for one in got), got  # nobody fell over anything else
    return [one for one in got if not isinstance(one, BadInput)]


@pytest.fixture
def stocked(place: StandalonePlace, settings: dict[str, Any]) -> Path:
    """Each kind of file that tools make new ones of."""
    folders = place.folders()
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    for folder in (folders.embeddings, folders.inbox):
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(Embedding("tom", {"clip_l": vectors}, 500, {}), folder / "tom.safetensors")
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    write_network(
        folders.networks / "net.safetensors",
        {
            f"{layer}.lora_down.weight": torch.ones(1, 32),
            f"{layer}.lora_up.weight": torch.ones(32, 1),
            f"{layer}.alpha": torch.tensor(1.0),
        },
        {},
    )
    return Path(str(settings["images"]))


TOOLS: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "card make": lambda name, _: {"embedding": "tom", "to": name},
    "card import": lambda name, _: {"card": "tom.png", "name": name},
    "embedding import": lambda name, _: {"file": "tom", "to": name},
    "embedding convert": lambda name, _: {"file": "tom", "to": name},
    "embedding prune": lambda name, _: {"file": "tom", "to": name, "keep": "2"},
    "images make": lambda name, pictures: {"source": str(pictures), "to": name},
    "lora merge": lambda name, _: {"files": "net\nnet", "to": name},
    "lora resize": lambda name, _: {"file": "net", "to": name, "rank": 1},
}


@pytest.mark.parametrize("tool", TOOLS)
def test_one_of_four_requests_gets_the_name(workshop: Workshop, stocked: Path, tool: str) -> None:
    workshop.use("card", "make", {"embedding": "tom"})
    group, verb = tool.split()
    for number in range(ROUNDS if tool in ("card import", "embedding import") else 4):
        name = f"zqx-{number}"
        got = together(lambda _, name=name: workshop.use(group, verb, TOOLS[tool](name, stocked)))
        (answer,) = winners(got)
        assert all(path.exists() for path in answer.written)  # type: ignore[attr-defined]
        sentences = {str(error) for error in got if isinstance(error, BadInput)}
        assert all(
            word in " ".join(sentences) for word in (name, "choose another" if group != "embedding" else "")
        ), sentences
    left = [path for path in workshop.place.folders().embeddings.parent.rglob(".*") if path.is_file()]
    assert left == []


def test_one_of_four_creates_a_word_and_what_waits_untrained_is_not_replaced(
    workshop: Workshop, place: StandalonePlace
) -> None:
    for number in range(ROUNDS):
        name = f"zqx-{number}"

        def create(vectors: int, name: str = name) -> object:
            return workshop.create({"name": name, "vectors": vectors + 1})

        got = together(create)
        assert len(winners(got)) == 1
        mine = next(place for place, one in enumerate(got) if not isinstance(one, BadInput))
        assert read_embedding(place.folders().embeddings / f"{name}.safetensors").count == mine + 1
    with pytest.raises(BadInput, match="exists; choose another name"):
        workshop.create({"name": "zqx-0"})
    workshop.create({"name": "zqx-0", "vectors": 9, "overwrite": True})


def test_four_jobs_of_one_second_have_four_folders(tmp_path: Path) -> None:
    jobs = together(lambda _: Job.reserve(tmp_path, "zqx"))
    assert len({job.folder for job in jobs}) == AT_ONCE  # type: ignore[attr-defined]


def test_a_name_in_other_capitals_is_the_same_while_it_is_made(workshop: Workshop, stocked: Path) -> None:
    workshop.use("card", "make", {"embedding": "tom"})
    for number in range(ROUNDS):
        names = [f"zqx-{number}", f"ZQX-{number}", f"Zqx-{number}", f"zQx-{number}"]
        got = together(
            lambda i, names=names: workshop.use("card", "import", {"card": "tom", "name": names[i]})
        )
        assert len(winners(got)) == 1


def test_one_of_four_processes_gets_the_name(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from lib_ti.core.errors import BadInput
from lib_ti.core.files import new_files, write_text
me, folder = sys.argv[1], Path(sys.argv[2])
(folder / f"ready-{{me}}").touch()
while len(list(folder.glob("ready-*"))) < {AT_ONCE}:
    time.sleep(0.001)
start = max(path.stat().st_mtime for path in folder.glob("ready-*")) + 0.2
for number in range(100):
    while time.time() < start + number * 0.005:
        pass
    path = folder / f"{{number}}.txt"
    try:
        with new_files([path]):
            write_text(path, me)
        print(number)
    except BadInput as error:
        assert "exists" in str(error)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(number), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for number in range(AT_ONCE)
    ]
    won: dict[str, str] = {}
    for number, process in enumerate(processes):
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        for name in out.split():
            assert name not in won
            won[name] = str(number)
    assert len(won) == 100
    assert all((tmp_path / f"{name}.txt").read_text() == number for name, number in won.items())


@pytest.mark.parametrize("links", [True, False])
def test_what_another_program_puts_there_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no links on this disk")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    with new_files([tmp_path / "free.txt"]):
        write_text(tmp_path / "free.txt", "ours")
    assert (tmp_path / "free.txt").read_text() == "ours"

    def write_both() -> None:
        with new_files([one, other]):
            other.write_text("theirs")
            write_together({path: lambda staged: write_text(staged, "ours") for path in (one, other)})

    with pytest.raises(BadInput, match=r"other\.txt exists, since this moment"):
        write_both()
    assert other.read_text() == "theirs" and not one.exists()
    with pytest.raises(BadInput, match=r"other\.txt exists"), new_files([one, other]):
        raise AssertionError("nobody comes here")
    with new_files([other], overwrite=True):
        write_text(other, "ours")
    assert {path.name for path in tmp_path.iterdir()} == {"free.txt", "other.txt"}
    assert other.read_text() == "ours"


def test_an_error_leaves_none_of_the_new_files(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"

    def fail() -> None:
        with new_files([one, other]):
            write_text(one, "new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
    with new_files([one]):  # the name is free again
        write_text(one, "new")
        write_text(one, "newer")
    assert one.read_text() == "newer"


def test_a_folder_that_came_meanwhile_stays(tmp_path: Path) -> None:
    def make() -> None:
        with new_folder(tmp_path / "set") as folder:
            (folder / "mine").touch()
            (tmp_path / "set").mkdir()
            (tmp_path / "set" / "theirs").touch()

    with pytest.raises(BadInput, match="exists; choose another name"):
        make()
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "theirs"]


def test_who_has_reserved_a_name_may_do_so_again_until_both_are_through(tmp_path: Path) -> None:
    path = tmp_path / "zqx.safetensors"
    with reserved([path], "1"):
        with reserved([path], "1"):
            pass
        with pytest.raises(BadInput, match="for job 1; choose another name"), reserved([path]):
            pass
    with reserved([path]):
        pass


def test_a_rename_that_fails_loses_neither_half(
    workshop: Workshop, place: StandalonePlace, stocked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place.folders().embeddings
    write_safetensors(read_embedding(folder / "tom.safetensors"), folder / "tom-neg.safetensors")
    Image.new("RGB", (8, 8)).save(folder / "tom.preview.png")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*arguments: Any) -> None:
        raise BadInput("nothing goes")

    with monkeypatch.context() as patched:
        patched.setattr(embedding_files, "write_atomically", fail)
        with pytest.raises(BadInput, match="nothing goes"):
            workshop.use("embedding", "rename", {"file": "tom", "name": "tim"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    workshop.use("embedding", "rename", {"file": "tom", "name": "tim"})
    assert {path.name for path in folder.iterdir()} == {
        "tim.safetensors",
        "tim-neg.safetensors",
        "tim.preview.png",
    }


def test_a_job_does_not_replace_what_came_while_it_published(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another program might between the last look and the file."""
    target = place.folders().embeddings / "zqx-cat.safetensors"
    link = os.link

    def slow(source: Path, path: Path) -> None:
        if Path(path) == target:
            target.write_bytes(b"theirs")
        link(source, path)

    monkeypatch.setattr(os, "link", slow)
    job = workshop.train({**settings, "preview_every": 0})
    status = ended(workshop, job)
    assert status.status == "failed" and "trained, and not put in its place" in str(status.error)
    assert target.read_bytes() == b"theirs" and status.saved_steps[-1] == 20


def test_staged_files_of_two_writers_are_two(tmp_path: Path) -> None:
    """Both overwrite one pair at once: each file is whole, and nothing is left beside."""
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"

    def write(number: int) -> object:
        for _ in range(ROUNDS):
            write_together(
                {
                    p: lambda staged: write_atomically(staged, lambda t: t.write_text(str(number) * 999))
                    for p in (one, other)
                }
            )
        return number

    assert len(winners(together(write))) == AT_ONCE
    for path in (one, other):
        assert len(set(path.read_text())) == 1 and len(path.read_text()) == 999
    assert len(list(tmp_path.iterdir())) == 2
