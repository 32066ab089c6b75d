"""The adapter on every family of checkpoints in a real AUTOMATIC1111 WebUI: tiny ones of the true layouts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ti.bench.webui import running_webui
from tests.webui import probe, write_data

if TYPE_CHECKING:
    from lib_ti.bench.webui import WebUI

pytestmark = pytest.mark.host

SD2 = {"clip_h": 48}
SDXL = {"clip_l": 64, "clip_g": 40}
# checkpoint: family, prediction, widths of the text encoders, native size, what the U-Net is told
FAMILIES = {
    "sd2": ("sd2", "eps", SD2, 512, {"c_crossattn"}),
    "sd2-v": ("sd2", "v", SD2, 768, {"c_crossattn"}),
    "sdxl": ("sdxl", "eps", SDXL, 1024, {"crossattn", "vector"}),
    "sdxl-inpainting": ("sdxl", "eps", SDXL, 1024, {"crossattn", "vector", "c_concat"}),
    "inpainting": ("sd1", "eps", {"clip_l": 64}, 64, {"c_crossattn", "c_concat"}),
}
PROMPTS = [
    "a zqx on a white background",
    "a (zqx:1.4) beside a [small] blue star",
    "zqx BREAK a large green heart, zqx",
    "a red circle, " * 30 + "zqx",
    "",
]
SHORT = {"name": "zqx-car", "steps": 4, "batch_size": 2, "width": 64, "height": 64, "preview_every": 2}


@contextmanager
def loaded(webui: WebUI, checkpoint: str) -> Iterator[None]:
    """The WebUI with another checkpoint, and without live previews: SDXL's want a file from the network."""
    probe(webui, "write_checkpoint", checkpoint=checkpoint)
    before = {"sd_model_checkpoint": "tinyworld", "live_previews_enable": True}
    webui.call("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint, "live_previews_enable": False})
    try:
        yield
    finally:
        webui.call("/sdapi/v1/options", before)


@pytest.fixture(scope="module", params=FAMILIES)
def family(webui: WebUI, request: pytest.FixtureRequest) -> Iterator[str]:
    with loaded(webui, request.param):
        yield request.param


def test_what_the_model_is(webui: WebUI, family: str) -> None:
    told = probe(webui, "info")
    kind, prediction, widths, size, _ = FAMILIES[family]
    expected = {"name": family, "family": kind, "prediction": prediction, "text_encoders": str(widths)}
    expected |= {"native_size": str(size), "latent_channels": "4"}
    expected |= {"latent_scale": "0.13025" if kind == "sdxl" else "0.18215"}
    assert {key: told[key] for key in expected} == expected
    assert len(told["alphas_cumprod"]) == 1000


@pytest.mark.parametrize("prompt", ["a zqx beside a star", "a (zqx:1.3) beside a star"])
def test_the_gradient_of_every_vector_is_the_true_one(webui: WebUI, family: str, prompt: str) -> None:
    """By autograd and by central differences, which agree to what float32 and the step allow."""
    sizes = probe(webui, "gradients", prompt=prompt)
    assert {encoder: len(rows) for encoder, rows in sizes.items()} == dict.fromkeys(FAMILIES[family][2], 2)
    for exact, approximate in (pair for rows in sizes.values() for pair in rows):
        assert exact > 0.1
        assert approximate == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("prompt", ["a zqx beside a star", "a (zqx:1.3), " + "a red circle, " * 30 + "zqx"])
def test_training_asks_the_unet_what_txt2img_asks(webui: WebUI, family: str, prompt: str) -> None:
    """Prompt, pooled prompt, size and crop (a picture wider than high), mask; then the answer."""
    seen = probe(webui, "as_generated", prompt=prompt, width=96, height=64)
    assert seen["apart"] == dict.fromkeys(FAMILIES[family][4], 0)
    assert seen["noise"] < 1e-5  # txt2img asks for two pictures at once
    assert seen["without"] > 1e-3


@pytest.mark.parametrize("move_vae", [False, True])
def test_a_job_leaves_the_webui_as_it_was(webui: WebUI, family: str, move_vae: bool) -> None:
    before = webui.txt2img("a zqx and a red star")
    done = probe(webui, "job", move_vae=move_vae)
    assert done["changed"] == []
    assert len(done["moved"]) == len(FAMILIES[family][2])
    assert min(done["moved"]) > 0.05
    assert len(set(done["previews"])) == 2
    assert webui.txt2img("a zqx and a red star") == before


def test_the_webui_loads_what_a_job_made(webui: WebUI, family: str, pictures: str, tmp_path: Path) -> None:
    before = webui.txt2img("a zqx-car")
    file = probe(webui, "train", images=pictures, data=str(tmp_path), settings=SHORT)
    assert webui.txt2img("a zqx-car") == before
    widths = FAMILIES[family][2]
    seen = probe(webui, "loads", file=file)
    assert Path(file).stem not in seen["skipped"]  # which may hold what other tests made for SD1
    assert (seen["vectors"], seen["shape"]) == (2, sum(widths.values()))
    assert seen["keys"] == (sorted(widths) if len(widths) > 1 else ["emb_params"])
    assert len(list(tmp_path.rglob("step-*.png"))) == 4


def test_a_network_reaches_every_layer_and_leaves_none_changed(webui: WebUI, family: str) -> None:
    found = probe(webui, "network_on_every_layer", checkpoint=family)
    assert found["names"] == []  # in the file and in the living model the same
    applied, every = re.search(r"applied (\d+) of (\d+) modules", found["report"]).groups()
    assert applied == every
    assert found["effect"] > 0.01 and found["text"] > 1e-4
    assert found["apart"] < 1e-4
    assert found["left"] == 0 and found["weights"]


def test_vectors_for_other_encoders_are_refused_in_a_sentence(webui: WebUI, family: str) -> None:
    told = probe(webui, "wrong_encoders")
    widths = FAMILIES[family][2]
    assert f"made for clip_x, this model reads {' and '.join(sorted(widths))}" in told


def test_sdxls_answers_equal_the_standalone_hosts(webui: WebUI, tmp_path: Path) -> None:
    """Both text encoders (emphasis, BREAK, two chunks, live vectors), what is pooled, sizes of a picture
    wider than high, U-Net, VAE, and the gradients through them."""
    pytest.importorskip("diffusers")
    from lib_ti.hosts.standalone import StandaloneHost

    generator = torch.Generator().manual_seed(1)
    given = {name: torch.randn(3, width, generator=generator) * 0.02 for name, width in SDXL.items()}
    given["latents"] = torch.randn(len(PROMPTS), 4, 8, 12, generator=generator)
    given["timesteps"] = torch.tensor([0, 250, 500, 750, 999])
    given["pixels"] = torch.rand(2, 3, 64, 96, generator=generator) * 2 - 1
    save_file(given, tmp_path / "given.safetensors")
    out = str(tmp_path / "out.safetensors")
    with loaded(webui, "sdxl"):
        probe(webui, "answers", given=str(tmp_path / "given.safetensors"), out=out, prompts=PROMPTS)
    theirs = load_file(out)

    alone = StandaloneHost.load(webui.data / "models" / "Stable-diffusion" / "sdxl.safetensors", "cpu")
    vectors = {name: given[name].clone().requires_grad_() for name in SDXL}
    with alone.lend():
        alone.set_embeddings({"zqx": vectors})
        condition = alone.encode_prompts(PROMPTS)
        noise = alone.predict_noise(given["latents"], given["timesteps"], condition)
        noise.square().mean().backward()
        encoded = alone.encode_images(given["pixels"])
        ours = {
            "hidden": condition.hidden,
            "pooled": condition.pooled,
            "noise": noise,
            "mean": encoded.mean,
            "std": encoded.std,
            "pixels": alone.decode(given["latents"]),
            **{f"{name}_grad": tensor.grad for name, tensor in vectors.items()},
        }
    for name, value in ours.items():
        assert value is not None
        size = float(value.detach().abs().max())
        assert size > 0
        assert float((theirs[name] - value.detach()).abs().max()) < 1e-4 * size, name


def test_the_refiner_is_refused_in_a_sentence(webui: WebUI) -> None:
    with loaded(webui, "sdxl-refiner"):
        told = probe(webui, "refusal")
    assert "sdxl-refiner is none of SD 1.x, SD 2.x and SDXL (base)" in told


@pytest.mark.parametrize("checkpoint", ["tinyworld", "sd2", "sdxl"])
def test_medvram_text_encoders_stay_where_the_backward_pass_finds_them(
    medvram: WebUI, checkpoint: str, pictures: str, tmp_path: Path
) -> None:
    """The WebUI sends away what is not its turn: between forward and backward, the text encoders."""
    with loaded(medvram, checkpoint) if checkpoint != "tinyworld" else nullcontext():
        before = medvram.txt2img("a zqx-car")
        seen = probe(medvram, "moves")
        assert {"unet", "text"} <= set(seen["outside"])
        assert {"unet", "vae"} <= set(seen["inside"])
        assert "text" not in seen["inside"]
        assert probe(medvram, "job")["changed"] == []
        probe(medvram, "train", images=pictures, data=str(tmp_path), settings=SHORT)
        assert medvram.txt2img("a zqx-car") == before


@pytest.fixture(scope="module")
def medvram(webui: WebUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A second WebUI; the first one says whether there is one to start."""
    data = tmp_path_factory.mktemp("medvram")
    write_data(data)
    with running_webui(data, flags=("--medvram",), ready="/probe") as program:
        yield program


def test_an_economy_changes_the_memory_alone(webui: WebUI, family: str) -> None:
    """Checkpointing to the bit, attention as close as its kernels are; the WebUI is as before."""
    told = probe(webui, "economies")
    assert told.pop("changed") == []
    usual = told.pop("usual")
    assert told["checkpointing"]["found"] == usual["found"]
    assert told["checkpointing"]["peak"] < 0.7 * usual["peak"]
    for other in told.values():
        for one, two in zip(
            map(torch.tensor, usual["found"]), map(torch.tensor, other["found"]), strict=True
        ):
            assert float((one - two).abs().max()) < 1e-4 * float(one.abs().max())
