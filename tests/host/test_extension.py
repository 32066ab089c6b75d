"""The extension in a real WebUI, over HTTP: create, train, use; and what must not happen meanwhile."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from lib_ti.bench.webui import API, Refused, WebUI, running_webui
from lib_ti.bench.webui_data import install_builtin, install_extension
from lib_ti.regularisation import picture_seed
from tests.webui import JOB_SECONDS, ended, probe, wait, webui_with_everything

pytestmark = pytest.mark.host


def embeddings(webui: WebUI) -> dict[str, Any]:
    return webui.call("/sdapi/v1/embeddings")["loaded"]


def draw(webui: WebUI, prompt: str) -> bytes:
    """The pixels of a picture, without the text that comes with it, in which a file's hash may be."""
    return Image.open(io.BytesIO(webui.txt2img(prompt))).tobytes()


def step_of(webui: WebUI, name: str) -> int:
    return next(told["step"] for told in webui.call(f"{API}/embeddings") if told["name"] == name)


@pytest.fixture
def settings(pictures: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of a short job, with a word of its own for each test."""
    return {
        "name": f"zqx-{zlib.crc32(request.node.name.encode())}",
        "images": pictures,
        "steps": 20,
        "accumulation": 1,
        "learning_rate": "0.05",
        "preview_every": 10,
        "preview_count": 1,
        "preview_steps": 2,
        "copy_every": 10,
    }


def test_create_train_and_use_without_a_restart(webui: WebUI, settings: dict[str, Any]) -> None:
    name, prompt = settings["name"], f"a {settings['name']} on a white background"
    unknown = draw(webui, prompt)
    file = Path(webui.call(f"{API}/embeddings", {"name": name, "init_text": "star"})["embedding"])
    assert name in embeddings(webui)
    created = draw(webui, prompt)
    assert created != unknown
    job = webui.call(f"{API}/jobs", settings)["job"]
    status = ended(webui, job)
    assert status["status"] == "done", status
    assert name in embeddings(webui) and step_of(webui, name) == 20
    trained = draw(webui, prompt)
    assert trained != created
    # The same prompt, the same file name, other vectors: nothing may be left of the old ones.
    webui.call(f"{API}/jobs/{job}/publish?step=10", {})
    half = draw(webui, prompt)
    assert len({unknown, created, trained, half}) == 4
    webui.call(f"{API}/jobs/{job}/publish?step=20", {})
    assert draw(webui, prompt) == trained
    with Image.open(file.with_suffix(".preview.png")) as preview:
        assert preview.size == (64, 64)
    assert "2 vectors, 20 steps on tinyworld" in file.with_suffix(".description.txt").read_text()
    assert webui.call(f"{API}/jobs")["jobs"][0] == job
    assert {told["name"] for told in webui.call(f"{API}/embeddings")} >= {name}
    assert list(load_file(file)) == ["emb_params"]


def test_dreamartist_makes_a_word_for_the_prompt_and_one_for_the_negative(
    webui: WebUI, settings: dict[str, Any]
) -> None:
    job = webui.call(f"{API}/jobs", {**settings, "method": "dreamartist"})["job"]
    status = ended(webui, job)
    assert status["status"] == "done", status
    name = settings["name"]
    assert {name, f"{name}-neg"} <= set(embeddings(webui))
    assert [load_file(status[key])["emb_params"].shape for key in ("embedding", "negative_embedding")] == [
        (3, 64),
        (6, 64),
    ]
    plain, prompt = webui.txt2img("a star"), f"a star, {name}"
    assert len({plain, webui.txt2img(prompt), webui.txt2img(prompt, negative_prompt=f"{name}-neg")}) == 3


def test_regularisation_pictures_are_those_that_the_webui_draws(
    webui: WebUI, settings: dict[str, Any]
) -> None:
    told = {**settings, "init_text": "star", "make_reg": 2, "epochs": 3, "preview_every": 0}
    status = ended(webui, webui.call(f"{API}/jobs", told)["job"])
    assert (status["status"], status["step"]) == ("done", 24), status  # four pictures and as many of those
    assert "regularisation pictures: 2 of 2 are drawn" in status["messages"]
    first, second = sorted((webui.data / ".ti-studio" / "regularisation").rglob("*.png"))
    assert first.with_suffix(".txt").read_text() == "a photo of a [name]"
    sampler = {"steps": 20, "sampler_name": "DPM++ 2M", "scheduler": "Karras"}
    for number, file in enumerate((first, second), 1):
        theirs = webui.txt2img("a photo of a star", seed=picture_seed(1, number), **sampler)
        assert Image.open(io.BytesIO(theirs)).tobytes() == Image.open(file).tobytes()


def test_status_and_interrupt_answer_while_a_job_has_the_model(
    webui: WebUI, settings: dict[str, Any]
) -> None:
    job = webui.call(f"{API}/jobs", {**settings, "steps": 100_000, "preview_every": 0})["job"]
    wait(webui, job, lambda status: status["step"] >= 10)
    assert webui.call(f"{API}/jobs")["running"] == job
    with ThreadPoolExecutor() as threads:
        picture = threads.submit(webui.txt2img, "a star")
        before = webui.call(f"{API}/jobs/{job}")["step"]
        wait(webui, job, lambda status: status["step"] > before)
        assert not picture.done()
        assert webui.call(f"{API}/jobs/{job}/interrupt?publish=true", {}) == {"job": job}
        status = ended(webui, job)
        assert picture.result(JOB_SECONDS)
    assert status["status"] == "stopped" and status["step"] < 100_000
    assert step_of(webui, settings["name"]) == status["step"]


def test_the_webuis_own_interrupt_stops_a_job_which_can_go_on(webui: WebUI, settings: dict[str, Any]) -> None:
    job = webui.call(f"{API}/jobs", {**settings, "steps": 60, "preview_every": 0})["job"]
    wait(webui, job, lambda status: status["step"] >= 10)
    webui.call("/sdapi/v1/interrupt", {})
    stopped = ended(webui, job)
    assert stopped["status"] == "stopped" and stopped["step"] < 60
    assert settings["name"] not in embeddings(webui)
    webui.call(f"{API}/jobs/{job}/resume", {})
    assert ended(webui, job)["status"] == "done"
    assert [row[0] for row in webui.call(f"{API}/jobs/{job}/losses")] == list(range(1, 61))


def test_previews_show_the_vectors_the_sampler_and_the_networks_asked_for(
    webui: WebUI, settings: dict[str, Any]
) -> None:
    """Two steps that differ, a LoRA and a sampler each change the picture; "DPM++ 2M" is in its list."""
    seen = {}
    for kind, change in {
        "plain": {},
        "lora": {"preview_prompt": "a [name] <lora:strong:1>"},
        "sampler": {"preview_sampler": "Euler a"},
        "size": {"preview_width": 128},
    }.items():
        asked = {**settings, "preview_prompt": "a [name]", **change, "name": f"{settings['name']}-{kind}"}
        job = webui.call(f"{API}/jobs", asked)["job"]
        status = ended(webui, job)
        assert status["status"] == "done", status
        for step, (name,) in status["previews"].items():
            address = f"{webui.url}{API}/jobs/{job}/samples/{name}"
            with urllib.request.urlopen(address) as answer:
                seen[kind, step] = answer.read()
    assert len(set(seen.values())) == len(seen) == 8
    with pytest.raises(Refused, match=r"no 'Eular'; choose one of .*Euler a"):
        webui.call(f"{API}/jobs", {**settings, "preview_sampler": "Eular"})


@pytest.mark.parametrize("clip_skip", [0, 2])
def test_clip_skip_is_the_webuis_unless_the_job_has_its_own(
    webui: WebUI, settings: dict[str, Any], clip_skip: int
) -> None:
    before = webui.call("/sdapi/v1/options")["CLIP_stop_at_last_layers"]
    seen = {}
    for name, asked in (("own", clip_skip), ("other", 1)):
        job = webui.call(
            f"{API}/jobs", {**settings, "name": f"{settings['name']}-{name}", "clip_skip": asked, "steps": 10}
        )["job"]
        assert ended(webui, job)["status"] == "done"
        seen[name] = [row[1] for row in webui.call(f"{API}/jobs/{job}/losses")]
    assert (seen["own"] == seen["other"]) == (clip_skip == 0)
    assert webui.call("/sdapi/v1/options")["CLIP_stop_at_last_layers"] == before


def test_a_failure_is_told_as_one(webui: WebUI, settings: dict[str, Any]) -> None:
    job = webui.call(f"{API}/jobs", {**settings, "name": "star"})["job"]
    status = ended(webui, job)
    assert status["status"] == "failed" and "ordinary word" in status["error"]
    with pytest.raises(Refused) as refused:
        webui.call(f"{API}/jobs", {**settings, "images": "nowhere"})
    assert refused.value.status == 422 and "nowhere" in refused.value.body["error"]


def test_templates_of_both_are_offered(webui: WebUI) -> None:
    assert {"style_filewords", "hypernetwork", "captions"} <= set(webui.call(f"{API}/templates"))
    assert "subject (TI Studio)" in webui.call(f"{API}/templates")


def test_openapi_and_the_settings_page_know_us(webui: WebUI) -> None:
    paths = webui.call("/openapi.json")["paths"]
    assert f"{API}/jobs" in paths and "vectors" in json.dumps(paths[f"{API}/jobs"]["post"])
    assert "ti_studio_jobs_dir" in webui.call("/sdapi/v1/options")


def test_nothing_heavy_is_loaded_at_the_start(webui: WebUI) -> None:
    """When the WebUI has imported its scripts; what a click needs comes with the click."""
    assert probe(webui, "loaded_at_start") == ["lib_ti", "lib_ti.webui"]


@pytest.fixture
def reloadable(tmp_path: Path) -> Iterator[WebUI]:
    """A WebUI that no browser has seen: before it reloads it waits for what a closed page has left."""
    with webui_with_everything(tmp_path) as reloadable:
        yield reloadable


def test_everything_is_there_after_reload_ui_and_again(reloadable: WebUI, settings: dict[str, Any]) -> None:
    prompt = f"a {settings['name']}"
    job = reloadable.call(f"{API}/jobs", settings)["job"]
    ended(reloadable, job)
    probe(reloadable, "write_network", name="zqx-net", seed=1)
    prompts = [prompt, f"{prompt} <net:zqx-net>", f"{prompt} <lora:strong:0.5><net:zqx-net:0.5>"]
    before = [draw(reloadable, told) for told in prompts]
    state = probe(reloadable, "model_state")
    assert len({*before}) == len(before)
    for _ in range(2):
        started = probe(reloadable, "started")
        probe(reloadable, "reload_ui")
        end = time.monotonic() + JOB_SECONDS
        while time.monotonic() < end:
            try:
                if probe(reloadable, "started") != started:
                    break
            except (OSError, Refused):
                pass
            time.sleep(0.5)
        assert settings["name"] in embeddings(reloadable)
        # The plain one last, which must show nothing of a network.
        assert [draw(reloadable, told) for told in reversed(prompts)] == before[::-1]
        assert probe(reloadable, "model_state") == state
        assert reloadable.call(f"{API}/jobs/{job}")["status"] == "done"
    again = reloadable.call(f"{API}/jobs", {**settings, "name": settings["name"] + "-again"})["job"]
    assert ended(reloadable, again)["status"] == "done"


def test_ten_jobs_need_the_memory_of_two(webui: WebUI, settings: dict[str, Any]) -> None:
    resident = []
    for number in range(10):
        asked = {**settings, "name": f"{settings['name']}-{number}"}
        assert ended(webui, webui.call(f"{API}/jobs", asked)["job"])["status"] == "done"
        lines = Path(f"/proc/{webui.process.pid}/status").read_text().splitlines()
        resident.append(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")))
    print("resident MB after each job:", [round(kb / 1024) for kb in resident])
    assert resident[9] <= 1.02 * resident[1]


@pytest.fixture(scope="module")
def guarded(webui: WebUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """Another WebUI, with names and passwords."""
    data = tmp_path_factory.mktemp("guarded")
    install_builtin(data)
    install_extension(data)
    flags = ("--api-auth=ann:secret", "--gradio-auth=bob:hidden")
    with running_webui(data, flags, ready=f"{API}/jobs") as guarded:
        yield guarded


def basic(account: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(account.encode()).decode()}


@pytest.mark.parametrize("account", [None, "ann:wrong", "bob:hidden", ":", "ann"])
@pytest.mark.parametrize(("path", "body"), [("/jobs", None), ("/jobs", {}), ("/embeddings", {"name": "x"})])
def test_strangers_are_refused(guarded: WebUI, account: str | None, path: str, body: Any) -> None:
    with pytest.raises(Refused) as refused:
        guarded.call(API + path, body, basic(account) if account else {})
    assert refused.value.status == 401


def test_those_who_are_known_are_let_in(guarded: WebUI) -> None:
    assert guarded.call(f"{API}/jobs", None, basic("ann:secret")) == {"jobs": [], "running": None}
    jar = CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    browser.open(guarded.url + "/login", b"username=bob&password=hidden").close()
    cookies = {"Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)}
    assert guarded.call(f"{API}/jobs", None, cookies) == {"jobs": [], "running": None}


def test_a_page_of_another_site_cannot_press_our_buttons(guarded: WebUI, webui: WebUI) -> None:
    for target, known in ((guarded, basic("ann:secret")), (webui, {})):
        for origin, code in (("https://evil.example", 403), (target.url, 422)):
            with pytest.raises(Refused) as refused:
                target.call(f"{API}/jobs/none/interrupt", {}, {**known, "Origin": origin})
            assert refused.value.status == code
