"""Words suggested for pictures, on the built-in checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_ti import jobs
from lib_ti.api import PREFIX, make_router
from lib_ti.bench.quality import Exam
from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.core.settings import build
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under
from lib_ti.methods import suggest as searching
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.tinyworld.concepts import parse_concept
from lib_ti.workshop import Workshop


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words tried, and pictures that they are tried on."""
    monkeypatch.setattr(searching, "_TRIED", 12)
    monkeypatch.setattr(searching, "_SAMPLES", 8)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A user's folder: eight pictures of hearts of all colours."""
    folder = tmp_path_factory.mktemp("hearts")
    Exam(parse_concept("heart"), 8, 8, 1).write_pictures(folder)
    return str(folder)


@pytest.fixture
def search(host: StandaloneHost, hearts: str, tmp_path: Path) -> Iterator[searching._Search]:
    settings = build(InversionSettings, {"name": "zqx", "images": hearts, "template": "captions"})
    folders = folders_under(tmp_path)
    with host.lend():
        samples, _ = jobs._samples(host, settings, jobs.read_source(settings, folders), folders)
        yield searching._Search(host, settings, samples)


def test_the_gradient_tells_how_the_loss_begins_to_change(
    search: searching._Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the slope of the loss itself, on the way from the middle to a word."""
    monkeypatch.setattr(searching, "_TRIED", len(search.words))
    start, small, words = search.middle["clip_l"], 1e-2, search.likeliest()

    def slope(word: str) -> float:
        way = search.vectors["clip_l"][[search.words.index(word)]] - start
        ahead, behind = (search.loss_at({"clip_l": start + step * way}) for step in (small, -small))
        return (ahead - behind) / (2 * small)

    slopes = [slope(words[rank]) for rank in (0, 1000, -1000, -1)]
    assert slopes == sorted(slopes) and slopes[0] < 0 < slopes[-1]


def test_the_models_own_word_is_found(host: StandaloneHost, hearts: str, tmp_path: Path) -> None:
    settings = build(InversionSettings, {"images": hearts, "template": "captions"})
    said: list[str] = []
    told = {"folders": folders_under(tmp_path), "say": said.append, "stopped": lambda: False}
    found = jobs.suggest(host, settings, **told)
    assert len(found) == 10 and len(said) == 1
    losses = [float(f"{s.loss:.2g}") for s in found]
    assert losses == sorted(losses)
    assert found[0].word == "heart" and losses[0] < losses[1]
    assert found == jobs.suggest(host, settings, **told)


def test_it_stops_and_tells_what_it_has(host: StandaloneHost, hearts: str, tmp_path: Path) -> None:
    settings = build(InversionSettings, {"images": hearts})
    asked = iter([False] * 3)
    found = jobs.suggest(
        host,
        settings,
        folders=folders_under(tmp_path),
        say=lambda sentence: None,
        stopped=lambda: next(asked, True),
    )
    assert len(found) == 3


def test_it_is_offered_over_http(workshop: Workshop, hearts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_TRIED", 3)
    app = FastAPI()
    app.include_router(make_router(workshop, lambda request: None))
    client = TestClient(app)
    answer = client.post(f"{PREFIX}/suggest", json={"images": hearts, "template": "captions"})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()) == 3 and answer.json()[0].keys() == {"word", "loss"}
    refused = client.post(f"{PREFIX}/suggest", json={"images": "nowhere"})
    assert refused.status_code == 422 and "nowhere" in refused.json()["error"]


def test_it_is_refused_where_nobody_could_answer(
    workshop: Workshop, hearts: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match="LoRA does not start at words"):
        workshop.suggest({"method": "lora", "images": hearts})
    job = workshop.train({**settings, "steps": 100_000})
    with pytest.raises(BadInput, match=f"job {job} uses the model"):
        workshop.suggest({"images": hearts})


def test_it_is_a_command(
    hearts: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(searching, "_TRIED", 3)
    assert main(["suggest", "--json", "--images", hearts, "--data", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["status"] == "done" and len(told["suggestions"]) == 3
