"""Tools at work: how far they are, and that they can be stopped from outside."""

from __future__ import annotations

import threading
from contextlib import suppress

import fastapi
import pytest
from fastapi.testclient import TestClient

from lib_ti.api import PREFIX, make_router
from lib_ti.core.errors import Interrupted
from lib_ti.hosts.checkpoints import BUILTIN
from lib_ti.tools.at_work import Works
from lib_ti.ui.view import works_html
from lib_ti.workshop import Workshop
from tests.networks.tools.made import builtin, lora
from tests.place import StandalonePlace


def test_who_is_at_work_and_how_far() -> None:
    works = Works()
    with suppress(KeyError), works.begun("lora extract") as work:
        assert works.now() == []  # it has not said anything yet
        work.progress(3, 12)
        assert [(one.name, one.done, one.of) for one in works.now()] == [("lora extract", 3, 12)]
        shown = works_html(works.now())
        assert "lora extract: 3 of 12" in shown and "width:25.0%" in shown and 'data-ask="1"' in shown
        works.stop()
        assert work.stop.is_set()
        raise KeyError  # what fails is at work no more, either
    assert works.now() == [] and works_html([]) == ""


def test_merging_into_a_checkpoint_is_stopped_over_http_and_leaves_nothing(
    workshop: Workshop, place: StandalonePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_ti.networks.tools.into_checkpoint import CheckpointMerge
    from lib_ti.networks.tools.saving import save_network

    folders = place.folders()
    for folder in (folders.networks, *folders.checkpoints):
        folder.mkdir(parents=True)
    (folders.checkpoints[0] / "model.safetensors").symlink_to(BUILTIN)
    save_network(folders.networks / "one.safetensors", lora(builtin()).updates, None, {})
    app = fastapi.FastAPI()
    app.include_router(make_router(workshop, lambda request: None))
    client = TestClient(app)
    reached, go_on = threading.Event(), threading.Event()
    read = CheckpointMerge.read

    def slowly(self: CheckpointMerge, name: str) -> object:
        reached.set()
        assert go_on.wait(60)
        return read(self, name)

    monkeypatch.setattr(CheckpointMerge, "read", slowly)
    refused: list[Exception] = []

    def merge() -> None:
        try:
            values = {"checkpoint": "model", "files": "one", "to": "new"}
            workshop.use("lora", "merge-into-checkpoint", values)
        except Interrupted as error:
            refused.append(error)

    thread = threading.Thread(target=merge)
    thread.start()
    assert reached.wait(60)
    (told,) = client.get(f"{PREFIX}/tools").json()
    assert (told["tool"], told["done"]) == ("lora merge-into-checkpoint", 1) and told["of"] > 100
    assert client.post(f"{PREFIX}/tools/stop").status_code == 200
    go_on.set()
    thread.join(60)
    assert [str(error) for error in refused] == ["stopped; nothing was written."]
    assert [path.name for path in folders.checkpoints[0].iterdir()] == ["model.safetensors"]
    assert client.get(f"{PREFIX}/tools").json() == [] and place.listed == 0
