"""The workshop over HTTP: the same settings, checks and sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi
import pytest
from fastapi.testclient import TestClient

from lib_ti.api import PREFIX, make_router
from lib_ti.core.settings import options_of
from lib_ti.formats.embedding import read_embedding
from lib_ti.methods.registry import KINDS
from lib_ti.tools.registry import TOOLS
from lib_ti.workshop import Workshop
from tests.place import ended


def known(request: fastapi.Request) -> None:
    if request.headers.get("who") == "stranger":
        raise fastapi.HTTPException(401, "who are you?")


@pytest.fixture
def client(workshop: Workshop) -> TestClient:
    app = fastapi.FastAPI()
    app.include_router(make_router(workshop, known))
    return TestClient(app)


def test_create_train_status_list_use(
    client: TestClient,
    workshop: Workshop,
    settings: dict[str, Any],
) -> None:
    created = client.post(f"{PREFIX}/embeddings", json={"name": "zqx-cat", "vectors": 3})
    assert created.status_code == 200, created.text
    path = Path(created.json()["embedding"])
    assert read_embedding(path).count == 3
    answer = client.post(f"{PREFIX}/jobs", json=settings)
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]
    ended(workshop, job)
    status = client.get(f"{PREFIX}/jobs/{job}").json()
    assert (status["status"], status["running"], status["step"]) == ("done", False, 20)
    assert status["embedding"] == str(path)
    assert client.get(f"{PREFIX}/jobs").json() == {"jobs": [job], "running": None, "waiting": []}
    assert [row[0] for row in client.get(f"{PREFIX}/jobs/{job}/losses").json()] == list(range(1, 21))
    picture = client.get(f"{PREFIX}/jobs/{job}/samples/{status['previews']['20'][0]}")
    assert picture.content.startswith(b"\x89PNG")
    published = client.post(f"{PREFIX}/jobs/{job}/publish", params={"step": 10})
    told = {name: value for name, value in published.json().items() if value}
    assert told == {"embedding": str(path)}
    assert read_embedding(path).step == 10
    assert client.get(f"{PREFIX}/embeddings").json()[0]["step"] == 10
    assert "subject" in client.get(f"{PREFIX}/templates").json()


def test_a_pair_is_told_as_two_files(
    client: TestClient, workshop: Workshop, settings: dict[str, Any]
) -> None:
    asked = {**settings, "method": "dreamartist", "preview_every": 0}
    created = client.post(f"{PREFIX}/embeddings", json={"name": "zqx-cat", "method": "dreamartist"}).json()
    files = [created["embedding"], created["negative_embedding"]]
    assert [Path(file).name for file in files] == ["zqx-cat.safetensors", "zqx-cat-neg.safetensors"]
    job = client.post(f"{PREFIX}/jobs", json=asked).json()["job"]
    ended(workshop, job)
    status = client.get(f"{PREFIX}/jobs/{job}").json()
    assert [status["embedding"], status["negative_embedding"]] == files
    assert client.post(f"{PREFIX}/jobs/{job}/publish", params={"step": 10}).json() == created
    assert [read_embedding(Path(file)).step for file in files] == [10, 10]


def test_interrupt_and_resume(
    client: TestClient,
    workshop: Workshop,
    settings: dict[str, Any],
) -> None:
    job = client.post(f"{PREFIX}/jobs", json={**settings, "steps": 10_000, "preview_every": 0}).json()["job"]
    assert client.get(f"{PREFIX}/jobs").json()["running"] == job
    assert client.post(f"{PREFIX}/jobs/{job}/interrupt").status_code == 200
    assert ended(workshop, job).status == "stopped"
    again = client.post(f"{PREFIX}/jobs/{job}/interrupt")
    assert again.status_code == 422 and "does not run" in again.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/jobs", {"name": "zqx-cat", "steps": 0}, "at least 1"),
        ("POST", "/jobs", {"name": "zqx-cat", "colour": 1}, "unknown setting colour"),
        ("POST", "/embeddings", {"name": "../x"}, "cannot be a name"),
        ("GET", "/jobs/nobody", None, "no job 'nobody'"),
        ("GET", "/jobs/%2e%2e", None, "no job"),
        ("POST", "/jobs/nobody/resume", None, "no job 'nobody'"),
        ("POST", "/jobs/nobody/publish?step=3", None, "no job 'nobody'"),
    ],
)
def test_bad_input_is_answered_with_its_sentence(
    client: TestClient, method: str, path: str, body: Any, said: str
) -> None:
    answer = client.request(method, PREFIX + path, json=body)
    assert answer.status_code == 422 and said in answer.json()["error"]


def test_strangers_get_nothing(client: TestClient) -> None:
    routes = [(path, method) for path, methods in openapi(client)["paths"].items() for method in methods]
    assert len(routes) == 14 + len(TOOLS)
    for path, method in routes:
        filled = path.replace("{job}", "x").replace("{name}", "y")
        answer = client.request(method.upper(), filled, headers={"who": "stranger"}, json={})
        assert answer.status_code == 401, (method, path)


def test_openapi_tells_every_setting_with_its_range(client: TestClient) -> None:
    body = openapi(client)["paths"][f"{PREFIX}/jobs"]["post"]["requestBody"]
    told, *others = body["content"]["application/json"]["schema"]["oneOf"]
    for kind, schema in zip(KINDS.values(), [told, *others], strict=True):
        assert set(schema["properties"]) == {"method", *options_of(kind.settings)}
        assert schema["properties"]["method"]["enum"] == [kind.name]
        assert schema["additionalProperties"] is False
    assert told["required"] == ["name"]
    assert all(schema["required"] == ["method", "name"] for schema in others)
    vectors = told["properties"]["vectors"]
    assert (vectors["type"], vectors["minimum"], vectors["maximum"], vectors["default"]) == (
        "integer",
        1,
        75,
        2,
    )
    assert told["properties"]["weighting"]["enum"] == [
        "x0",
        "v",
        "none",
        "min-snr",
        "debiased",
        "min-snr-debiased",
    ]


def openapi(client: TestClient) -> dict[str, Any]:
    return client.get("/openapi.json").json()
