"""The adapter inside a real AUTOMATIC1111 WebUI, against the standalone host on the same checkpoint."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_ti import jobs
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.base import Conditioning
from lib_ti.methods.starts import initial_vectors
from lib_ti.methods.vector_settings import InversionSettings
from tests.webui import BUILTIN, probe

if TYPE_CHECKING:
    from lib_ti.bench.webui import WebUI
    from lib_ti.hosts.standalone import StandaloneHost

pytestmark = pytest.mark.host

PROMPTS = [
    "a zqx on a white background",
    "a (zqx:1.4) beside a [small] blue star",
    "zqx BREAK a large green heart, zqx",
    "a red circle, " * 30 + "zqx",
    "",
]


@pytest.fixture(scope="module")
def standalone(webui: WebUI) -> StandaloneHost:
    """On the very file that the WebUI has loaded."""
    pytest.importorskip("diffusers")
    from lib_ti.hosts.standalone import StandaloneHost

    return StandaloneHost.load(webui.data / "models" / "Stable-diffusion" / BUILTIN.name, "cpu")


def test_what_the_model_is(webui: WebUI, standalone: StandaloneHost) -> None:
    told, ours = probe(webui, "info"), standalone.info
    schedule = torch.tensor(told.pop("alphas_cumprod"))
    assert float((schedule - ours.alphas_cumprod).abs().max()) < 1e-6  # one sums in float32
    expected = {k: str(v) for k, v in vars(ours).items() if k in told and k not in ("latent_scale", "name")}
    assert {k: told[k] for k in expected} == expected
    assert float(told["latent_scale"]) == pytest.approx(ours.latent_scale)
    assert told["name"] == "tinyworld"


def test_every_answer_equals_the_standalone_hosts(
    webui: WebUI, standalone: StandaloneHost, tmp_path: Path
) -> None:
    """Text (emphasis, BREAK, two chunks, live vectors), U-Net, VAE, and the gradients through them."""
    generator = torch.Generator().manual_seed(1)
    given = {
        "vectors": torch.randn(3, 64, generator=generator) * 0.02,
        "latents": torch.randn(len(PROMPTS), 4, 8, 8, generator=generator),
        "timesteps": torch.tensor([0, 250, 500, 750, 999]),
        "pixels": torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1,
    }
    save_file(given, tmp_path / "given.safetensors")
    answers = str(tmp_path / "out.safetensors")
    counts = probe(webui, "numbers", given=str(tmp_path / "given.safetensors"), out=answers, prompts=PROMPTS)
    theirs = load_file(answers)

    vectors = given["vectors"].clone().requires_grad_()
    latents = given["latents"].clone().requires_grad_()
    with standalone.lend():
        standalone.set_embeddings({"zqx": {"clip_l": vectors}})
        assert counts == [dict(standalone.count_triggers(prompt)) for prompt in PROMPTS]
        condition = standalone.encode_prompts(PROMPTS)
        noise = standalone.predict_noise(given["latents"], given["timesteps"], condition)
        noise.square().mean().backward()
        encoded = standalone.encode_images(given["pixels"])
        pixels = standalone.decode(latents)
        pixels.square().mean().backward()
        ours = {
            "hidden": condition.hidden,
            "noise": noise,
            "vectors_grad": vectors.grad,
            "mean": encoded.mean,
            "std": encoded.std,
            "pixels": pixels,
            "latents_grad": latents.grad,
            "token_vectors": standalone.token_vectors("clip_l"),
        }
    assert float(theirs["vectors_grad"].abs().min(1).values.min()) > 0
    for name, value in ours.items():
        size = float(value.detach().abs().max())
        assert float((theirs[name] - value.detach()).abs().max()) < 1e-4 * size, name


def test_brackets_are_signs_where_a_job_wants_it(
    webui: WebUI, standalone: StandaloneHost, tmp_path: Path
) -> None:
    prompts = ["a (zqx:1.4) beside a [small] blue star", r"a \(zqx\) BREAK star"]
    vectors = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)) * 0.02
    save_file({"vectors": vectors}, tmp_path / "given.safetensors")
    files = {"given": str(tmp_path / "given.safetensors"), "out": str(tmp_path / "out.safetensors")}
    refused = probe(webui, "literal", prompts=prompts, **files)
    assert refused == ["emphasis sd-scripts", "max-token-length", "size-conditioning sd-scripts"]
    with standalone.lend(), torch.no_grad():
        standalone.set_embeddings({"zqx": {"clip_l": vectors}})
        standalone.set_conditioning(Conditioning("none"))
        ours = standalone.encode_prompts(prompts).hidden
    theirs = load_file(tmp_path / "out.safetensors")["hidden"]
    assert ours.shape == theirs.shape == (2, 77, 64)
    assert float((theirs - ours).abs().max()) < 1e-4 * float(ours.abs().max())


def test_a_whole_job_finds_the_vectors_of_the_standalone_host(
    webui: WebUI, standalone: StandaloneHost, pictures: str, tmp_path: Path
) -> None:
    settings = {"name": "zqx-car", "steps": 20, "batch_size": 2, "flip": True}
    settings |= {"preview_every": 7, "preview_count": 2, "preview_steps": 2}
    theirs = probe(webui, "train", images=pictures, data=str(tmp_path / "webui"), settings=settings)
    ours = jobs.start(
        standalone,
        InversionSettings(images=pictures, **settings),
        folders=jobs.folders_under(tmp_path / "alone"),
        model="builtin",
        report=lambda event: None,
        stopped=lambda: False,
    )
    found = read_embedding(Path(theirs)).vectors["clip_l"]
    expected = read_embedding(ours.embedding).vectors["clip_l"]
    start = initial_vectors(standalone, InversionSettings(**settings))["clip_l"]
    assert float((expected - start).abs().max()) > 0.02
    assert float((found - expected).abs().max()) < 1e-5
    assert len(list((tmp_path / "webui").rglob("step-*.png"))) == 6  # of steps 7, 14 and 20


@pytest.mark.parametrize(("fail", "move_vae"), [(False, False), (True, False), (False, True)])
def test_a_job_leaves_the_webui_as_it_was(webui: WebUI, fail: bool, move_vae: bool) -> None:
    """Whatever was on before: a merged LoRA, tiling. Previews follow the vectors."""
    prompt = "a zqx and a red star <lora:strong:0.5>"
    before = webui.txt2img(prompt, tiling=True)
    assert before != webui.txt2img(prompt.replace("0.5", "0"), tiling=True)
    assert webui.txt2img(prompt, tiling=True) == before
    done = probe(webui, "job", fail=fail, move_vae=move_vae)
    assert done["changed"] == []
    assert done["caches"] == [[None, None]] * 4
    assert min(done["moved"]) > 0.05
    assert len(set(done["previews"])) == 2
    assert webui.txt2img(prompt, tiling=True) == before
    webui.txt2img("a star")  # takes tiling and LoRA away


def test_two_jobs_give_the_same_previews(webui: WebUI) -> None:
    assert probe(webui, "job")["previews"] == probe(webui, "job")["previews"]


@pytest.mark.parametrize("disturbance", ["lora", "hypernetwork", "unet", "token merging", "tiling"])
def test_a_loan_is_of_the_checkpoint_alone(webui: WebUI, disturbance: str) -> None:
    measured = probe(webui, "loan_is_clean", disturbance=disturbance)
    assert measured["disturbed"] > 1e-3
    assert (measured["lent"], measured["after_preview"], measured["again"]) == (0, 0, 0)
    assert measured["changed"] == []


def test_a_loan_uses_the_checkpoints_own_vae(webui: WebUI) -> None:
    measured = probe(webui, "latents_with_another_vae")
    assert measured["other"] > 1e-3
    assert (measured["lent"], measured["again"], measured["changed"]) == (0, 0, [])


def test_the_users_attention_is_kept_and_lets_the_gradient_through(webui: WebUI) -> None:
    gradients = {name: torch.tensor(g) for name, g in probe(webui, "attention_gradients").items()}
    assert len(gradients) >= 4
    one, *others = gradients.values()
    assert float(one.abs().max()) > 0
    for other in others:
        assert float((other - one).abs().max()) < 1e-4 * float(one.abs().max())


def test_a_live_embedding_wins_over_a_stored_one_but_not_over_a_longer(webui: WebUI) -> None:
    seen = probe(webui, "triggers_beside_stored_ones")
    assert seen["counts"] == [2, 3]  # "zqx two" goes with the stored ones when the disk is read anew
    assert seen["afterwards"] == [None, None]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("lowvram", "--medvram"),
        ("fp8", "FP8 weight"),
        ("another family", "none of SD 1.x, SD 2.x and SDXL (base)"),
        ("depth", "made for depth"),
        ("variations", "or variations"),
        ("x0", "only eps and v"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(webui: WebUI, kind: str, words: str) -> None:
    assert words in probe(webui, "refusal", kind=kind)


def test_an_interrupt_during_a_preview_stays_one(webui: WebUI) -> None:
    seen = probe(webui, "interrupted_preview")
    assert "interrupted" in seen["error"] and seen["still"] is True


def test_a_preview_is_drawn_by_the_sampler_that_is_named(webui: WebUI) -> None:
    """By the WebUI's names, the old ones with the schedule type too; as its own txt2img draws it."""
    usual = probe(webui, "drawn", sampler="")
    assert probe(webui, "drawn", sampler="DPM++ 2M Karras") == usual
    ancestral = probe(webui, "drawn", sampler="Euler a")
    picture = webui.txt2img("a red star", sampler_name="Euler a", scheduler="Automatic")
    assert np.array_equal(np.array(ancestral), np.array(Image.open(BytesIO(picture))))
    assert ancestral != usual
    refusal = probe(webui, "drawn", sampler="Euler b")
    assert "no sampler 'Euler b'" in refusal and "Euler a" in refusal
