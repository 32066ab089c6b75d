"""SDXL in the standalone host: a tiny checkpoint of the true layout, against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionXLPipeline
from torch.testing import assert_close

from lib_ti.core.errors import BadInput
from lib_ti.formats import ldm
from lib_ti.hosts.base import SampleRequest
from lib_ti.hosts.checkpoints import load_components
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.hosts.tokenizer import build_clip_tokenizer
from lib_ti.methods.starts import initial_vectors
from lib_ti.methods.vector_settings import InversionSettings
from tests.hosts.tiny import (
    SDXL_WIDTHS,
    SdxlParts,
    State,
    new_sdxl,
    sdxl_state,
    shapes_of,
    to_open_clip,
    write,
)

PROMPT = "a photo of a small red star, on a blue background"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def parts() -> SdxlParts:
    return new_sdxl()


@pytest.fixture(scope="module")
def state(parts: SdxlParts) -> State:
    return sdxl_state(parts)


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "tiny-xl.safetensors", state)


@pytest.fixture(scope="module")
def xl(file: Path) -> StandaloneHost:
    """A test leaves it as it found it."""
    return StandaloneHost.load(file, "cpu")


def new_pipeline(parts: SdxlParts, **scheduler: Any) -> StableDiffusionXLPipeline:
    unet, vae, first, second = parts
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=build_clip_tokenizer(),
        tokenizer_2=build_clip_tokenizer(pad_token="!"),
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(use_karras_sigmas=True, **BETAS, **scheduler),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(parts: SdxlParts) -> StableDiffusionXLPipeline:
    return new_pipeline(parts)


@pytest.fixture(scope="module")
def folder(pipeline: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "a-folder"
    pipeline.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_every_weight_arrives_where_it_belongs(
    kind: str, parts: SdxlParts, request: pytest.FixtureRequest
) -> None:
    loaded = load_components(request.getfixturevalue(kind))
    found = loaded.unet, loaded.vae, loaded.text_encoder, loaded.text_encoder_2
    for ours, source in zip(found, parts, strict=True):
        expected = source.state_dict()
        assert ours is not None and ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())
        assert not ours.training and not any(p.requires_grad for p in ours.parameters())
    assert (loaded.family, loaded.prediction) == ("sdxl", "eps")
    assert loaded.native_size == {"file": 1024, "folder": 64}[kind]
    assert_close(loaded.alphas_cumprod, DDPMScheduler(**BETAS).alphas_cumprod)


def test_what_the_model_is(xl: StandaloneHost) -> None:
    info = xl.info
    assert (info.family, dict(info.text_encoders)) == ("sdxl", SDXL_WIDTHS)
    assert (info.latent_scale, info.pixels_per_latent, info.latent_channels) == (0.13025, 8, 4)
    assert {name: xl.token_vectors(name).shape[1] for name in SDXL_WIDTHS} == SDXL_WIDTHS


@torch.no_grad()
def test_prompts_are_read_as_diffusers_reads_them(
    xl: StandaloneHost, pipeline: StableDiffusionXLPipeline
) -> None:
    prompts = [PROMPT, "", "cat " * 75]
    hidden, _, pooled, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    ours = xl.encode_prompts(prompts)
    assert ours.pooled is not None
    assert (ours.hidden.shape, ours.pooled.shape) == ((3, 77, 64 + 128), (3, 96))
    assert torch.equal(ours.hidden, hidden)
    assert torch.equal(ours.pooled, pooled)


@torch.no_grad()
def test_what_is_pooled_is_the_first_chunk_without_emphasis(xl: StandaloneHost) -> None:
    told = xl.encode_prompts(["cat dog", "cat dog BREAK a star", "cat (dog:1.5)", "a star BREAK cat dog"])
    assert told.pooled is not None and told.hidden.shape == (4, 154, 192)
    plain, longer, stressed, other = told.pooled
    assert_close(longer, plain)
    assert_close(stressed, plain)
    assert float((other - plain).abs().max()) > 0.1
    assert_close(told.hidden[3, 77:], told.hidden[0, :77])
    # Emphasis scales the states of each encoder and keeps that encoder's mean.
    for part in (slice(0, 64), slice(64, None)):
        expected = told.hidden[0, :77, part].clone()
        expected[2] *= 1.5
        expected *= told.hidden[0, :77, part].mean() / expected.mean()
        assert_close(told.hidden[2, :77, part], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_cross_start_takes_each_encoders_part_of_the_condition(xl: StandaloneHost) -> None:
    with xl.lend():
        settings = InversionSettings(name="zqx", init="cross", init_text="red star", vectors=2)
        start = initial_vectors(xl, settings)
        hidden = xl.encode_prompts(["red star"]).hidden[0, 1:3]
    for name, answer in (("clip_l", hidden[:, :64]), ("clip_g", hidden[:, 64:])):
        usual = xl.token_vectors(name).norm(dim=1).median()
        assert_close(start[name], answer / answer.norm(dim=1, keepdim=True) * usual)


@torch.no_grad()
def test_the_unet_is_told_what_diffusers_tells_it(
    xl: StandaloneHost, pipeline: StableDiffusionXLPipeline
) -> None:
    """Size, crop and target of a picture wider than high, beside the pooled prompt."""
    latents = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([20, 900])
    condition = xl.encode_prompts([PROMPT, "a green heart"])
    size = (64, 96)
    sizes = pipeline._get_add_time_ids(size, (0, 0), size, torch.float32, 96)
    expected = pipeline.unet(
        latents,
        timesteps,
        encoder_hidden_states=condition.hidden,
        added_cond_kwargs={"text_embeds": condition.pooled, "time_ids": sizes.repeat(2, 1)},
    ).sample
    answer = xl.predict_noise(latents, timesteps, condition)
    assert torch.equal(answer, expected)
    higher = xl.predict_noise(latents.transpose(2, 3), timesteps, condition).transpose(2, 3)
    assert float((higher - answer).abs().max()) > 1e-3


def drawn(host: StandaloneHost, seed: int, negative: str = "") -> np.ndarray:
    asked = SampleRequest([PROMPT], [seed], negative, steps=6, cfg_scale=15, width=96, height=64)
    return np.asarray(host.sample(asked)[0], dtype=int)


def drawn_by_diffusers(pipeline: StableDiffusionXLPipeline, seed: int, negative: str | None) -> np.ndarray:
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(seed))
    told = {"num_inference_steps": 6, "guidance_scale": 15.0, "width": 96, "height": 64}
    return np.asarray(pipeline(PROMPT, negative_prompt=negative, latents=noise, **told).images[0], dtype=int)


@pytest.mark.parametrize("negative", ["", "blue"])
def test_pictures_equal_diffusers_own(
    xl: StandaloneHost, pipeline: StableDiffusionXLPipeline, negative: str
) -> None:
    """Without a negative prompt both tell the U-Net nothing at all: zeros, and not the empty prompt."""
    ours = drawn(xl, 7, negative)
    assert np.abs(ours - drawn_by_diffusers(pipeline, 7, negative or None)).max() <= 1
    assert ours.std() > 10
    assert np.abs(ours - drawn(xl, 7, "a star")).max() > 3


def test_a_schedule_that_ends_in_pure_noise_draws_as_diffusers_does(
    parts: SdxlParts, state: State, tmp_path: Path
) -> None:
    marks = {"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}
    host = StandaloneHost.load(write(tmp_path / "v.safetensors", state | marks), "cpu")
    assert host.info.prediction == "v" and float(host.info.alphas_cumprod[-1]) == 0
    theirs = new_pipeline(parts, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    ours = drawn(host, 3)
    assert np.abs(ours - drawn_by_diffusers(theirs, 3, None)).max() <= 1
    assert ours.std() > 10


@pytest.mark.parametrize("prompt", ["a zqx beside a star", "a (zqx:1.3), " + "a red circle, " * 30 + "zqx"])
def test_the_gradient_of_both_encoders_vectors_is_that_of_finite_differences(
    xl: StandaloneHost, prompt: str
) -> None:
    generator = torch.Generator().manual_seed(4)
    latents, asked = torch.randn(2, 1, 4, 8, 8, generator=generator).unbind()
    vectors = {
        name: (torch.randn(2, width, generator=generator) * 0.02).requires_grad_()
        for name, width in SDXL_WIDTHS.items()
    }
    with xl.lend():
        xl.set_embeddings({"zqx": vectors})

        def answer() -> torch.Tensor:
            noise = xl.predict_noise(latents, torch.tensor([500]), xl.encode_prompts([prompt]))
            return (noise.double() * asked).sum()

        answer().backward()
        for tensor in vectors.values():
            assert tensor.grad is not None
            for row, gradient in zip(tensor.data, tensor.grad, strict=True):
                start, step = row.clone(), 0.005 * gradient / gradient.norm()
                with torch.no_grad():
                    row.copy_(start + step)
                    above = answer()
                    row.copy_(start - step)
                    below = answer()
                    row.copy_(start)
                assert float(above - below) / 0.01 == pytest.approx(float(gradient.norm()), rel=0.02)
        assert all(p.grad is None for module in xl._modules() for p in module.parameters())


def test_the_vae_stays_in_full_precision(file: Path, folder: Path) -> None:
    for model in (file, folder):
        half = load_components(model, torch.float16)
        assert {p.dtype for p in half.vae.parameters()} == {torch.float32}
        others = half.unet, half.text_encoder, half.text_encoder_2
        assert {p.dtype for part in others if part is not None for p in part.parameters()} == {torch.float16}


def test_who_decides_the_prediction(tmp_path: Path, state: State) -> None:
    path = write(tmp_path / "xl.safetensors", state, **{"modelspec.prediction_type": "v"})
    assert load_components(path).prediction == "v"
    for said in ("eps", "v"):
        told = ldm.sgm_config(shapes_of(state), parameterization=said)  # type: ignore[arg-type]
        assert load_components(write(path, state, told)).prediction == said
    told["model"]["params"]["denoiser_config"]["params"]["scaling_config"]["target"] = "sgm.EDMScaling"
    with pytest.raises(
        BadInput, match=r"xl predicts 'EDMScaling', the \.yaml beside it says; expected eps or v"
    ):
        load_components(write(path, state, told))


def test_a_clip_skip_that_sdxl_does_not_have_is_refused(file: Path, xl: StandaloneHost) -> None:
    told = StandaloneHost(load_components(file), torch.device("cpu"), clip_skip=2).encode_prompts([PROMPT])
    assert torch.equal(told.hidden, xl.encode_prompts([PROMPT]).hidden)
    with pytest.raises(BadInput, match="clip skip is 3, but SDXL reads the layer before the last"):
        StandaloneHost.load(file, "cpu", clip_skip=3)


def test_vectors_for_one_of_the_encoders_are_refused(xl: StandaloneHost) -> None:
    with pytest.raises(BadInput, match="made for clip_l, this model reads clip_g and clip_l"):
        xl.set_embeddings({"zqx": {"clip_l": torch.zeros(1, 64)}})


def test_the_refiner_and_incomplete_files_are_refused(
    parts: SdxlParts, state: State, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    without_text = {key: value for key, value in state.items() if not key.startswith("conditioner.")}
    refiner = to_open_clip(parts[3], "conditioner.embedders.0.model.", 3)
    with pytest.raises(BadInput, match="is the SDXL refiner"):
        load_components(write(path, without_text | refiner))
    with pytest.raises(BadInput, match="is a checkpoint without its text encoder"):
        load_components(write(path, {k: v for k, v in state.items() if not k.startswith(ldm.CLIP_L)}))
    with pytest.raises(BadInput, match="lacks 1 weights of its CLIPTextModelWithProjection: text_proj"):
        load_components(write(path, {k: v for k, v in state.items() if k != f"{ldm.CLIP_G}text_projection"}))
    index = folder / "model_index.json"
    whole = index.read_text()
    try:
        index.write_text(whole.replace('"CLIPTextModel"', "null", 1))
        with pytest.raises(BadInput, match="a-folder is the SDXL refiner"):
            load_components(folder)
    finally:
        index.write_text(whole)
