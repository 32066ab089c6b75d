"""Files that no reader has met before give a sentence, and never an error of Python's."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fastapi
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file

from lib_ti.api import PREFIX, make_router
from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json, parse_toml
from lib_ti.core.job import Job
from lib_ti.data.images import find_images
from lib_ti.data.templates import list_templates
from lib_ti.formats.card import read_card
from lib_ti.formats.embedding import Embedding, read_embeddings, write_pt
from lib_ti.formats.safetensors_file import read_metadata, read_shapes, read_tensors
from lib_ti.formats.streaming import open_tensors
from lib_ti.hosts.a1111_web import guard
from lib_ti.hosts.checkpoints import load_components
from lib_ti.networks.files import check_network, family_of_file, read_network
from lib_ti.networks.prompt_metadata import metadata_shown
from lib_ti.workshop import Workshop

FILES = Path(__file__).parent / "files" / "security"
READERS = (
    *(read_embeddings, read_network, check_network, family_of_file, open_tensors, load_components),
    *(read_tensors, read_metadata, read_shapes, metadata_shown),
)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("dt_F4", "has tensors of the type F4; expected one of"),
        ("ndim70", "expected at most 16 axes"),
        ("zero_huge", "no more numbers than a file can hold"),
    ],
)
def test_shapes_and_types_that_no_tensor_has(file: str, sentence: str, read: object) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        read(FILES / f"{file}.safetensors")  # type: ignore[operator]
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("shape", [(0, 2**62, 2), (0, *[2] * 16)])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
def test_shapes_that_no_tensor_of_a_pickle_has(tmp_path: Path, shape: tuple[int, ...], new: bool) -> None:
    path = tmp_path / "cat.pt"

    class Odd:
        def __reduce__(self) -> tuple[object, ...]:
            view = (0, shape, (1,) * len(shape))
            return torch._utils._rebuild_tensor_v2, (torch.empty(0).storage(), *view, False, {})

    torch.save({"cat": Odd()}, path, _use_new_zipfile_serialization=new)
    for read in (read_embeddings, read_network, open_tensors):
        with pytest.raises(BadInput, match="refused: "):
            read(path)  # type: ignore[operator]


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
def test_half_a_character_in_a_pickle(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "cat.pt"
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}, "name": "cat\ud800"}, path,
               _use_new_zipfile_serialization=new)  # fmt: skip
    (embedding,) = read_embeddings(path)
    assert embedding.metadata["name"] == "cat?"


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\uDFFF": 1}', '[["x\\ud83d y"]]'])
def test_half_a_character_in_json(text: str) -> None:
    with pytest.raises(ValueError, match="half a character"):
        parse_json(text)


def test_a_whole_character_of_two_halves_in_json() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("deep", ["[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65, "[" * 100_000])
def test_what_is_nested_without_end(deep: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(deep)
    assert parse_json("[" * 60 + "]" * 60)


@pytest.mark.parametrize("text", ["a." * 100 + "b = 1", '"a".' * 100 + "b = 1", "[" + "a." * 100 + "b]"])
def test_names_with_dots_without_end(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_toml(text)


def test_what_stands_in_quotes_may_have_dots_and_digits() -> None:
    told = "1. cat. " * 200 + "9" * 200
    assert parse_toml(f'prompt = "{told}"  # {told}')["prompt"] == told


def test_numbers_of_many_digits() -> None:
    for text in (f'{{"a": {"9" * 5000}}}', f"[{'9' * 101}]"):
        with pytest.raises(ValueError, match="digits"):
            parse_json(text)
    with pytest.raises(ValueError, match="digits"):
        parse_toml("a = " + "9" * 5000)
    assert json.loads("9" * 50) == parse_json("9" * 50)


def test_a_card_with_half_a_character(workshop: Workshop) -> None:
    """One sentence, and nothing written."""
    with pytest.raises(BadInput, match="half a character"):
        read_card((FILES / "c_surr.png").read_bytes(), "c_surr.png")
    folders = workshop.place.folders()
    folders.cards.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FILES / "c_surr.png", folders.cards / "cat.png")
    before = sorted(folders.embeddings.rglob("*"))
    answer = _client(workshop).post(f"{PREFIX}/tools/card/import", json={"card": "cat.png"})
    assert answer.status_code == 422, answer.text
    assert "half a character" in answer.json()["error"]
    assert sorted(folders.embeddings.rglob("*")) == before


@pytest.fixture
def strange(workshop: Workshop) -> Iterator[Workshop]:
    """Its job folders are gone before it is taken down."""
    yield workshop
    shutil.rmtree(workshop.place.folders().jobs, ignore_errors=True)


def _client(workshop: Workshop) -> TestClient:
    app = fastapi.FastAPI()
    app.include_router(make_router(workshop, lambda request: None))
    return TestClient(app, raise_server_exceptions=False)


def _job(folder: Path, **files: str | bytes) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


_SOUND = json.dumps({"settings": {"name": "cat", "steps": 5}, "method": "textual_inversion", "model": "x"})
_STRANGE = {
    "empty": "",
    "list": "[]",
    "nothing": "{}",
    "settings": '{"settings": []}',
    "deep": "[" * 100_000,
    "half": '{"settings": {"name": "\\ud800"}}',
    "bytes": b"\xff\xfe\x00",
    "long": b" " * 5_000_000,
}


@pytest.mark.parametrize("told", _STRANGE.values(), ids=_STRANGE)
def test_a_jobs_settings_that_are_none(strange: Workshop, told: str | bytes) -> None:
    """A sentence for that job, and the others are listed as before."""
    root, client = strange.place.folders().jobs, _client(strange)
    _job(root / "good", settings__json=_SOUND)
    _job(root / "evil", settings__json=told)
    assert client.get(f"{PREFIX}/jobs").json()["jobs"] == ["good", "evil"]
    assert client.get(f"{PREFIX}/jobs/good").json()["status"] == "broken off"
    for answer in (
        client.get(f"{PREFIX}/jobs/evil"),
        client.post(f"{PREFIX}/jobs/evil/resume"),
        client.post(f"{PREFIX}/jobs/evil/publish", params={"step": 1}),
    ):
        assert answer.status_code == 422, answer.text
        assert len(answer.json()["error"]) < 600


def test_what_a_jobs_other_files_say_is_checked(strange: Workshop, tmp_path: Path) -> None:
    root, client = strange.place.folders().jobs, _client(strange)
    rows = ("1,0.5,0.1\n2,nan,inf\n", f"{'9' * 5000},0.5,0.1\n", "1,1.2.3,0.1\n", "1,2\n", "\udcff\n")
    for number, row in enumerate(rows):
        result = {"status": number, "messages": "x", "error": [], "embedding": {}, "other_embeddings": [1]}
        content = f"step,loss,learning_rate\n{row}".encode(errors="surrogateescape")
        _job(root / f"job{number}", settings__json=_SOUND, loss__csv=content, result__json=json.dumps(result))
        samples = root / f"job{number}" / "samples"
        samples.mkdir()
        secret = tmp_path / "secret.png"
        secret.write_bytes(b"secret")
        (samples / "step-1-0.png").symlink_to(secret)
        (samples / "step-x-0.png").touch()
        (samples / f"step-{'9' * 100}-0.png").touch()
        (samples / "step-2-0.png").mkdir()
        (samples / "step-3-0.png").touch()
        status = client.get(f"{PREFIX}/jobs/job{number}")
        assert status.status_code == 200, status.text
        assert list(status.json()["previews"]) == ["3"]
        assert status.json()["status"] == "broken off"
        assert status.json()["messages"] == []
        assert client.get(f"{PREFIX}/jobs/job{number}/losses").status_code == 200
        assert client.get(f"{PREFIX}/jobs/job{number}/samples/step-1-0.png").status_code == 422


def test_a_job_folder_whose_files_are_no_files(strange: Workshop) -> None:
    root, client = strange.place.folders().jobs, _client(strange)
    (root / "evil" / "settings.json").mkdir(parents=True)
    assert client.get(f"{PREFIX}/jobs").json()["jobs"] == ["evil"]
    assert client.get(f"{PREFIX}/jobs/evil").status_code == 422
    _job(root / "worse", settings__json=_SOUND)
    (root / "worse" / "loss.csv").mkdir()
    assert client.get(f"{PREFIX}/jobs/worse").status_code == 422


@pytest.mark.parametrize(
    ("metadata", "tensors"),
    [
        ({}, {"parameter/a": torch.ones(1)}),
        ({"step": "9" * 5000}, {"parameter/a": torch.ones(1)}),
        ({"step": "-1"}, {"parameter/a": torch.ones(1)}),
        ({"step": "1", "numbers": "[]"}, {"parameter/a": torch.ones(1)}),
        ({"step": "1", "numbers": "[" * 100_000}, {"parameter/a": torch.ones(1)}),
        ({"step": "1", "numbers": '{"parameter/a": 1}'}, {"parameter/b": torch.ones(1)}),
        ({"step": "1"}, {"parameter/a": torch.full((1,), torch.nan)}),
        ({"step": "1"}, {"other/a": torch.ones(1)}),
    ],
)
def test_a_jobs_state_that_is_none(
    tmp_path: Path, metadata: dict[str, str], tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "job" / "state.safetensors"
    path.parent.mkdir()
    save_file(tensors, path, metadata)
    with pytest.raises(BadInput, match="is not a saved state") as caught:
        Job(path.parent).load_state()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("file", ["dt_F4", "ndim70", "zero_huge"])
def test_a_jobs_state_of_strange_tensors(tmp_path: Path, file: str) -> None:
    shutil.copyfile(FILES / f"{file}.safetensors", tmp_path / "state.safetensors")
    with pytest.raises(BadInput, match="is not a saved state"):
        Job(tmp_path).load_state()


ODD = os.fsdecode(b"c\xffat")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_names_that_are_no_utf8(strange: Workshop, tmp_path: Path) -> None:
    """They are shown with a question mark, hide nothing, and break no answer."""
    folders, client = strange.place.folders(), _client(strange)
    for folder, name in (
        (folders.embeddings, f"{ODD}.pt"),
        (folders.networks, f"{ODD}.safetensors"),
        (folders.cards, f"{ODD}.png"),
        (folders.datasets / ODD, "1.png"),
        (folders.jobs / ODD, "settings.json"),
        (folders.jobs / "good", "settings.json"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_SOUND)
    assert client.get(f"{PREFIX}/jobs").json()["jobs"] == ["good"]
    (told,) = client.get(f"{PREFIX}/embeddings").json()
    assert told["file"] == "c?at.pt"
    assert client.get(f"{PREFIX}/templates").status_code == 200
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / f"{ODD}.txt").write_text("a [name]")
    assert list(list_templates([tmp_path / "templates"])) == ["c?at"]
    for kind in ("embedding", "network", "card", "dataset"):
        assert any(name.startswith("c?at") for name in strange.files(kind) or ())
    write_pt(Embedding("cat", {"clip_l": torch.ones(1, 64)}), folders.embeddings / f"{ODD}.pt")
    (told,) = client.get(f"{PREFIX}/embeddings").json()
    assert told.get("name") == "c?at", told
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{ODD}.png")
    with pytest.raises(BadInput, match="not UTF-8") as caught:
        find_images(tmp_path / "pictures")
    str(caught.value).encode()


def test_an_origin_that_names_no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SimpleNamespace(cmd_opts=SimpleNamespace(cors_allow_origins=None, api_auth=None))
    monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(shared=shared))
    app = fastapi.FastAPI()
    app.post("/", dependencies=[fastapi.Depends(guard)])(lambda: None)
    client = TestClient(app, raise_server_exceptions=False)
    for origin in ("http://[", "http://]", "http://[::1", "null", "x" * 5000):
        assert client.post("/", headers={"origin": origin}).status_code == 403
    assert client.post("/", headers={"origin": "http://testserver"}).status_code == 200
