"""What somebody may read of this computer by naming it: pictures and captions, and where others reach the
program, those below folders that its settings name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from lib_ti.api import PREFIX, make_router
from lib_ti.core.errors import BadInput
from lib_ti.core.picture_settings import PRIVATE
from lib_ti.core.settings import options_of
from lib_ti.data.captions import ENDINGS, check_extension
from lib_ti.hosts import a1111_options
from lib_ti.hosts.base import Folders
from lib_ti.methods.registry import KINDS
from lib_ti.tools.registry import TOOLS
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace, ended, wait

SECRET, KEY = "hunter2-and-more", "MY_SECRET_KEY"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with a picture, its caption, and what is nobody's business, under every kind of name."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "one.png")
    (folder / "one.txt").write_text("a red picture")
    ini = f"[default]\n{KEY} = {SECRET}\n"
    toml = f'[general]\n{KEY} = "{SECRET}"\n[{SECRET}]\n'
    twice = f'{KEY} = "{SECRET}"\n[{KEY}.{SECRET}]\n'
    for name, text in {
        "one.env": ini,
        "one.json": json.dumps({KEY: SECRET, "general": {KEY: SECRET}}),
        "two.json": f'{{"{KEY}": "{SECRET}", {SECRET}',
        "one.toml": toml,
        "two.toml": twice,
        "three.toml": ini,
        "four.toml": f'[[subsets]]\nimage_dir = "{SECRET}"',
        "id_rsa": ini,
        "notes.txt": ini,
        "one.safetensors": ini,
        "two.safetensors": (60).to_bytes(8, "little").decode("latin1") + json.dumps({KEY: SECRET}).ljust(60),
        "one.pt": ini,
        "false.png": ini,
    }.items():
        (folder / name).write_text(text, encoding="latin1")
    return folder


@pytest.fixture
def client(workshop: Workshop) -> TestClient:
    app = FastAPI()
    app.include_router(make_router(workshop, lambda request: None))
    return TestClient(app)


def leaks(text: str) -> bool:
    return SECRET in text or KEY in text


@pytest.mark.parametrize("kind", ["ti", "lora"])
def test_no_setting_of_a_job_tells_what_is_in_a_foreign_file(
    client: TestClient, workshop: Workshop, settings: dict[str, Any], foreign: Path, kind: str
) -> None:
    asked = 0
    for name in sorted(PRIVATE & options_of(KINDS[kind].settings).keys()):
        for path in [foreign, *sorted(foreign.iterdir())]:
            values = {
                **settings,
                "method": kind,
                "steps": 1,
                "preview_every": 0,
                "overwrite": True,
                name: str(path),
            }
            if name == "dataset_config":
                values["images"] = ""
            answer = client.post(f"{PREFIX}/jobs", json=values)
            assert not leaks(answer.text), (name, path.name)
            if answer.status_code == 202:
                job = answer.json()["job"]
                ended(workshop, job)
                assert not leaks(client.get(f"{PREFIX}/jobs/{job}").text), (name, path.name)
            asked += 1
    assert asked > 40


def test_no_tool_tells_what_is_in_a_foreign_file(
    client: TestClient, foreign: Path, place: StandalonePlace
) -> None:
    asked = 0
    for tool in TOOLS:
        told = options_of(tool.settings)
        for name, (_, option, _) in told.items():
            if not option.file or option.file.startswith("new-"):
                continue
            for path in [foreign, *sorted(foreign.iterdir())]:
                others = {other: "zqx" for other, (_, o, _) in told.items() if o.needed and other != name}
                answer = client.post(
                    f"{PREFIX}/tools/{tool.group}/{tool.name}", json={**others, name: str(path)}
                )
                assert not leaks(answer.text), (tool.name, name, path.name)
                asked += 1
    assert asked > 200
    made = client.post(
        f"{PREFIX}/tools/images/resize", json={"source": str(foreign), "target": "copies", "together": True}
    )
    assert made.status_code == 422  # false.png is none
    (foreign / "false.png").unlink()
    made = client.post(f"{PREFIX}/tools/images/resize", json={"source": str(foreign), "target": "copies"})
    assert made.status_code == 200, made.text
    assert {Path(path).suffix for path in made.json()["written"]} == {".png", ".jpg", ".txt"}
    assert "neither pictures nor captions" in " ".join(made.json()["notes"])


ENDING_TOOLS = [tool for tool in TOOLS if "caption_extension" in options_of(tool.settings)]


@pytest.mark.parametrize(
    "ending", [".env", ".json", ".toml", ".py", ".pem", "", ".", "txt", ".txt/../x.env", ".txt.env"]
)
def test_captions_have_one_of_few_endings(
    client: TestClient, foreign: Path, settings: dict[str, Any], place: StandalonePlace, ending: str
) -> None:
    """For jobs, for tools, and in data set files."""
    dataset = place.folders().datasets / "set"
    dataset.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(dataset / "one.png")
    config = foreign / "set.toml"
    config.write_text(
        f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = '{foreign}'\ncaption_extension = '{ending}'\n"
    )
    (foreign / "false.png").unlink()
    with pytest.raises(BadInput, match=r"expected an ending in \.txt"):
        check_extension(ending)
    bodies = [
        ("/jobs", {**settings, "caption_extension": ending}),
        ("/suggest", {**settings, "caption_extension": ending}),
        ("/jobs", {**settings, "images": "", "dataset_config": str(config)}),
    ]
    for tool in ENDING_TOOLS:
        needed = {
            n: "set"
            for n, (_, o, _) in options_of(tool.settings).items()
            if o.file in ("pictures", "dataset")
        }
        extra = {"picture": "one.png"} if "picture" in options_of(tool.settings) else {}
        extra |= {"to": "new"} if "to" in options_of(tool.settings) else {}
        bodies.append((f"/tools/{tool.group}/{tool.name}", {**needed, **extra, "caption_extension": ending}))
    assert len(bodies) == 3 + 6
    for path, body in bodies:
        answer = client.post(PREFIX + path, json=body)
        assert answer.status_code == 422 and "expected an ending in .txt" in answer.json()["error"], (
            path,
            answer.text,
        )
        assert not leaks(answer.text)


def test_the_endings_of_captions_are_taken_in_capitals_and_behind_a_pictures() -> None:
    for ending in (*ENDINGS, ".TXT", ".png.txt", ".jpg.caption"):
        check_extension(ending)


def test_a_saved_job_keeps_its_folder_its_ending_and_its_data_set_file(
    workshop: Workshop,
    place: StandalonePlace,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = Path(settings["images"])
    for number in range(3):
        (pictures / f"{number}.wd14").write_text(f"a zqx-cat thing {number}")
    config = tmp_path / "old.cfg"
    config.write_text(
        f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = '{pictures}'\ncaption_extension = '.wd14'\n"
    )
    monkeypatch.setattr("lib_ti.jobs.check_extension", lambda ending: None)
    monkeypatch.setattr("lib_ti.jobs.check_file_name", lambda name: None)
    for changes in (
        {"caption_extension": ".wd14"},
        {"images": "", "dataset_config": str(config), "template": "captions"},
    ):
        with monkeypatch.context():  # as an earlier version began it
            job = workshop.train({**settings, "steps": 3000, "preview_every": 0, "save_every": 10, **changes})
            status = wait(workshop, job, lambda status: status.step >= 10 or not status.running)
            assert status.error is None
            workshop.stop(job)
            assert ended(workshop, job).status == "stopped"
    monkeypatch.undo()
    place.readable = (tmp_path / "nowhere",)  # nor is its folder one of those that others may name
    for job in workshop.jobs():
        workshop.resume(job)
        before = workshop.status(job).step
        wait(workshop, job, lambda status, before=before: status.step > before or not status.running)
        assert workshop.status(job).error is None
        workshop.stop(job)
        assert ended(workshop, job).step > before


@pytest.fixture
def reached(place: StandalonePlace, tmp_path: Path) -> Iterator[Path]:
    """A program that others reach; the folder that they may name, with a picture in it."""
    root = tmp_path / "shared"
    (root / "inside").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(root / "inside" / f"{number}.png")
    place.readable = (root,)
    yield root
    place.readable = None


def test_others_name_folders_below_those_of_the_settings_only(
    client: TestClient,
    workshop: Workshop,
    settings: dict[str, Any],
    foreign: Path,
    reached: Path,
    tmp_path: Path,
) -> None:
    (reached / "out").symlink_to(foreign, target_is_directory=True)
    (reached / "out.png").symlink_to(foreign / "one.png")
    refused = [
        foreign,
        foreign / "nothing-there",
        reached / ".." / "foreign",
        reached / "out",
        Path("~"),
        Path("/"),
        Path(),
        tmp_path / "shared-not",
    ]
    for path in refused:
        for name in sorted(PRIVATE):
            kind = "ti" if name in options_of(KINDS["ti"].settings) else "lora"
            asked = {**settings, "method": kind, "images": str(reached / "inside"), name: str(path)}
            answer = client.post(f"{PREFIX}/jobs", json=asked)
            assert (
                answer.status_code == 422 and "may not be read: others can reach" in answer.json()["error"]
            ), name
        for tool in TOOLS:
            for name, (_, option, _) in options_of(tool.settings).items():
                if option.file != "pictures":
                    continue
                others = {n: "zqx" for n, (_, o, _) in options_of(tool.settings).items() if o.needed}
                answer = client.post(
                    f"{PREFIX}/tools/{tool.group}/{tool.name}", json={**others, name: str(path)}
                )
                assert answer.status_code == 422, (tool.name, name)
    answer = client.post(f"{PREFIX}/tools/images/look", json={"images": str(foreign)})
    assert "may not be read" in answer.json()["error"]
    # A data set file below them leads nowhere else.
    config = reached / "set.toml"
    for folder, told in ((foreign, "may not be read"), (reached / "inside", "")):
        config.write_text(f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = '{folder}'\n")
        asked = {**settings, "images": "", "dataset_config": str(config), "preview_every": 0}
        answer = client.post(f"{PREFIX}/jobs", json=asked)
        assert told in answer.text and answer.status_code == (422 if told else 202)
    assert ended(workshop, answer.json()["job"]).status == "done"


def test_others_read_what_they_may(
    client: TestClient, workshop: Workshop, place: StandalonePlace, settings: dict[str, Any], reached: Path
) -> None:
    for images in (str(reached / "inside"), "set"):
        if images == "set":
            made = client.post(
                f"{PREFIX}/tools/images/make", json={"source": str(reached / "inside"), "to": "set"}
            )
            assert made.status_code == 200, made.text
        assert client.post(f"{PREFIX}/tools/images/look", json={"images": images}).status_code == 200
        asked = {
            **settings,
            "images": images,
            "overwrite": True,
            "make_reg": 1,
            "preview_every": 0,
            "init_text": "star",
        }
        began = client.post(f"{PREFIX}/jobs", json=asked)
        assert began.status_code == 202, began.text
        job = began.json()["job"]
        status = ended(workshop, job)
        assert (status.status, status.error) == ("done", None)
    again = {
        **settings,
        "images": "set",
        "name": "zqx-dog",
        "weights": str(status.embedding),
        "preview_every": 0,
    }
    assert ended(workshop, client.post(f"{PREFIX}/jobs", json=again).json()["job"]).error is None


def test_on_this_computer_alone_any_folder_may_be_named(client: TestClient, foreign: Path) -> None:
    (foreign / "false.png").unlink()
    answer = client.post(f"{PREFIX}/tools/images/look", json={"images": str(foreign)})
    assert answer.json()["count"] == 1 and "a red picture" in answer.text
    assert not leaks(answer.text)


def test_what_may_be_read_is_found_whole(tmp_path: Path) -> None:
    folders = Folders(*[tmp_path] * 3, (), tmp_path / "sets", tmp_path, (), (tmp_path / "a",))
    folders = replace(folders, jobs=tmp_path / "j", embeddings=tmp_path / "e", networks=tmp_path / "n")
    folders.check_readable(tmp_path / "a" / "b")
    folders.check_readable(tmp_path / "sets" / "x")
    for path in (tmp_path, tmp_path / "ab", tmp_path / "a" / ".." / "b"):
        with pytest.raises(BadInput, match="may not be read"):
            folders.check_readable(path)


@pytest.mark.parametrize(
    ("options", "environment", "reached"),
    [
        ({}, {}, False),
        ({"listen": True}, {}, True),
        ({"share": True}, {}, True),
        ({"ngrok": "token"}, {}, True),
        ({"cloudflared": True}, {}, True),
        ({"server_name": "0.0.0.0"}, {}, True),
        ({"server_name": "my-pc"}, {}, True),
        ({"server_name": "127.0.0.1"}, {}, False),
        ({"server_name": "localhost"}, {}, False),
        ({}, {"GRADIO_SERVER_NAME": "0.0.0.0"}, True),
        ({}, {"GRADIO_SERVER_NAME": "127.0.0.1"}, False),
        ({}, {"GRADIO_SHARE": "True"}, True),
    ],
)
def test_the_webui_tells_whether_others_reach_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: dict[str, Any],
    environment: dict[str, str],
    reached: bool,
) -> None:
    """From its options, as they were at the start; of its folders relative ones lie beside its models."""
    shared: Any = ModuleType("modules.shared")
    shared.cmd_opts = SimpleNamespace(listen=False, share=False, ngrok=None, server_name=None)
    vars(shared.cmd_opts).update(options)
    shared.opts = SimpleNamespace(data={"ti_studio_readable_folders": f" {tmp_path} ; pictures;; "})
    paths: Any = ModuleType("modules.paths")
    paths.data_path = str(tmp_path / "webui")
    modules: Any = ModuleType("modules")
    modules.shared, modules.paths = shared, paths
    for name, module in (("modules", modules), ("modules.shared", shared), ("modules.paths", paths)):
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("GRADIO_SHARE", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    named = (tmp_path, tmp_path / "webui" / "pictures")
    assert a1111_options.readable_folders() == (named if reached else None)
