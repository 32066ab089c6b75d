"""Who may not come in is told so before anything of his is read; so many jobs wait and no more, and they
wait on after a restart."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from lib_ti import api, job_queue
from lib_ti.api import PREFIX, make_router
from lib_ti.core import regex
from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.formats.embedding import Embedding, write_safetensors
from lib_ti.ui.view import status_html
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace, ended, wait


def known(request: fastapi.Request) -> None:
    if request.headers.get("who") == "stranger":
        raise fastapi.HTTPException(401, "who are you?")


@pytest.fixture
def app(workshop: Workshop) -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.include_router(make_router(workshop, known))
    return app


@pytest.fixture
def client(app: fastapi.FastAPI) -> TestClient:
    return TestClient(app)


def ask(
    app: fastapi.FastAPI, path: str, headers: dict[str, str], parts: Iterator[bytes]
) -> tuple[int, bytes]:
    """Code and body of the answer to a body that comes in ``parts``, as a server hands it over."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PREFIX + path,
        "raw_path": (PREFIX + path).encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body


def no_byte() -> Iterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("path", ["/jobs", "/embeddings", "/suggest", "/tools/card/import"])
def test_a_stranger_is_refused_before_a_byte_of_the_body_is_read(app: fastapi.FastAPI, path: str) -> None:
    code, _ = ask(app, path, {**JSON, "who": "stranger", "content-length": "200000000"}, no_byte())
    assert code == 401


@pytest.mark.parametrize("length", ["200000000", "9" * 5000, "-1", "1e3"])
def test_a_body_that_says_it_is_too_long_is_not_read(app: fastapi.FastAPI, length: str) -> None:
    code, body = ask(app, "/jobs", {**JSON, "content-length": length}, no_byte())
    assert code == 413 and "at most" in json.loads(body)["error"]


@pytest.mark.parametrize("headers", [{"transfer-encoding": "chunked"}, {"content-length": "10"}])
def test_a_body_is_counted_while_it_is_read(
    app: fastapi.FastAPI, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setattr(api, "MAX_BODY", 10_000)
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1000
            yield b"[" * 1000

    code, body = ask(app, "/jobs", {**JSON, **headers}, endless())
    assert code == 413 and "at most 10000 bytes" in json.loads(body)["error"]
    assert given <= 11_000


def test_a_body_in_parts_is_read_whole(app: fastapi.FastAPI) -> None:
    text = json.dumps({"name": "zqx-cat", "vectors": 3}).encode()
    code, body = ask(app, "/embeddings", JSON, iter([text[:5], b"", text[5:]]))
    assert code == 200, body
    code, body = ask(app, "/embeddings", JSON, iter([b"{no json"]))
    assert code in (400, 422)


def test_the_hosts_app_gets_no_middleware(app: fastapi.FastAPI) -> None:
    assert app.user_middleware == []


def test_a_full_queue_says_so(
    client: TestClient,
    workshop: Workshop,
    place: StandalonePlace,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_queue, "MAX_WAITING", 2)
    with place.lock:
        made = []
        for number in range(6):
            answer = client.post(f"{PREFIX}/jobs", json={**settings, "name": f"zqx-{number}"})
            if number == 0:
                made.append(answer.json()["job"])
                while workshop.waiting():  # until the worker stands at the model
                    time.sleep(0.01)
                continue
            assert answer.status_code == (202 if number < 3 else 429), answer.text
            if number < 3:
                made.append(answer.json()["job"])
        assert "2 jobs wait already" in answer.json()["error"]
        assert len(list(place.folders().jobs.iterdir())) == 3
        listed = client.get(f"{PREFIX}/jobs").json()
        assert (listed["running"], listed["waiting"]) == (made[0], made[1:])
        assert [client.get(f"{PREFIX}/jobs/{job}").json()["ahead"] for job in made] == [0, 1, 2]
        # Who waits no more is out at once, and makes room.
        assert client.post(f"{PREFIX}/jobs/{made[1]}/interrupt").status_code == 200
        assert workshop.status(made[2]).ahead == 1
        with pytest.raises(BadInput, match="no job"):
            Job.open(place.folders().jobs, made[1])
        again = client.post(f"{PREFIX}/jobs", json={**settings, "name": "zqx-1"})
        assert again.status_code == 202
        for job in (made[2], again.json()["job"], made[0]):
            workshop.stop(job)


EARLIER = """
import os, sys, threading
from pathlib import Path
import tests.place
from lib_ti.workshop import Workshop
import json
place = tests.place.StandalonePlace(None, Path(sys.argv[1]))
workshop = Workshop(place)
place.lock.acquire()
print(*(workshop.train({**json.loads(sys.argv[2]), "name": name}) for name in sys.argv[3:]), flush=True)
sys.stdin.readline()
os._exit(9)
"""


@pytest.fixture
def earlier(
    place: StandalonePlace, settings: dict[str, Any]
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A program with three jobs that wait, and their ids; it is killed when a line comes."""
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-c",
        EARLIER,
        str(place.data),
        json.dumps(settings),
        "zqx-b",
        "zqx-a",
        "zqx-c",
    ]
    process = subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    yield process, process.stdout.readline().split()
    process.kill()
    process.communicate()


def test_waiting_jobs_wait_on_after_a_restart_and_end_in_their_order(
    place: StandalonePlace, settings: dict[str, Any], earlier: tuple[subprocess.Popen[str], list[str]]
) -> None:
    process, ids = earlier
    assert len(ids) == 3
    assert Workshop(place).waiting() == []  # they are the living program's
    process.communicate("end\n")
    assert process.returncode == 9
    workshop = Workshop(place)
    assert workshop.waiting() == ids and set(workshop.jobs()) == set(ids)
    assert [workshop.status(job).status for job in ids] == ["waiting"] * 3
    assert [workshop.status(job).ahead for job in ids] == [0, 1, 2]
    assert workshop.status(ids[0]).settings["images"] == settings["images"]
    # Their names are theirs: for jobs and for tools.
    with pytest.raises(BadInput, match=f"being made for job {ids[1]}"):
        workshop.create({"name": "zqx-a"})
    write_safetensors(
        Embedding("tom", {"clip_l": torch.ones(2, 64)}, 1, {}), place.folders().embeddings / "tom.safetensors"
    )
    with pytest.raises(BadInput, match=f"being made for job {ids[2]}"):
        workshop.use("embedding", "convert", {"file": "tom", "to": "ZQX-c"})
    assert [workshop.status(job).status for job in ids] == ["waiting"] * 3
    # What comes new, comes behind them.
    last = workshop.train({**settings, "name": "zqx-last"})
    assert ended(workshop, last).status == "done"
    results = [(place.folders().jobs / job / "result.json").stat().st_mtime_ns for job in [*ids, last]]
    assert results == sorted(results)
    assert [workshop.status(job).status for job in ids] == ["done"] * 3
    assert not list(place.folders().jobs.glob("*/waiting.json"))
    assert Workshop(place).waiting() == []


def test_a_stopped_job_that_waits_to_go_on_does_so_after_a_restart(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    job = workshop.train({**settings, "steps": 60, "preview_every": 0})
    wait(workshop, job, lambda status: status.step >= 10)
    workshop.stop(job)
    step = ended(workshop, job).step
    with place.lock:
        other = workshop.train({**settings, "name": "zqx-dog"})
        workshop.resume(job)
        with pytest.raises(BadInput, match="is waiting already"):
            workshop.resume(job)
        assert workshop.current() == other  # what was asked first comes first
        saved = (place.folders().jobs / job / "waiting.json").read_text()
        workshop.stop(job)
        assert workshop.status(job).status == "stopped" and workshop.status(job).step == step
        workshop.stop(other)
    ended(workshop, other)
    (place.folders().jobs / job / "waiting.json").write_text(saved)  # as a kill would have left it
    later = Workshop(place)
    assert later.waiting() == [job]
    later.go_on()
    assert (ended(later, job).status, later.status(job).step) == ("done", 60)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"method": 3, "settings": 4}', '{"since": "x"}'])
def test_a_waiting_job_that_cannot_be_read_holds_up_nothing(
    place: StandalonePlace, settings: dict[str, Any], text: str
) -> None:
    folder = place.folders().jobs / "20260101-000000-zqx"
    folder.mkdir(parents=True)
    (folder / "waiting.json").write_text(text)
    workshop = Workshop(place)
    assert workshop.waiting() == []
    assert ended(workshop, workshop.train(settings)).status == "done"


def test_the_page_tells_who_waits(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    with place.lock:
        first = workshop.train(settings)
        second = workshop.train({**settings, "name": "zqx-dog"})
        html = status_html(workshop.status(first), [], 0, ["zqx-<b>"])
        assert "Waiting: the model is in use: zqx-cat" in html and "Then: zqx-&lt;b&gt;" in html
        html = status_html(workshop.status(second), [], 0)
        assert "Waiting: 1 job comes first" in html and "Then:" not in html
        workshop.stop(second)
        workshop.stop(first)


@pytest.mark.parametrize("pattern", [r"((a+)+)+$", r"(a|aa)+$"])
def test_a_caption_regex_ends_in_time(
    client: TestClient, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Also one that a package with a time limit of its own would never have read to its end."""
    monkeypatch.setattr(regex, "SECONDS", 0.5)
    Image.new("RGB", (64, 64)).save(Path(settings["images"]) / ("a" * 60 + "!.png"))
    begun = time.monotonic()
    answer = client.post(f"{PREFIX}/jobs", json={**settings, "word_regex": pattern})
    assert answer.status_code == 422 and "more than 0.5 seconds" in answer.json()["error"]
    assert time.monotonic() - begun < 10
    nested = {**settings, "word_regex": r"((((a{99}){99}){99}){99})"}
    begun = time.monotonic()
    job = client.post(f"{PREFIX}/jobs", json=nested).json()["job"]
    assert time.monotonic() - begun < 10
    client.post(f"{PREFIX}/jobs/{job}/interrupt")
