"""The standalone host on the built-in checkpoint, against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Embedding, write_safetensors
from lib_ti.hosts.base import SampleRequest
from lib_ti.hosts.standalone import StandaloneHost

PROMPT = "a small red star on a blue background"


def request(prompts: list[str], seeds: list[int], **more: object) -> SampleRequest:
    return SampleRequest(prompts=prompts, seeds=seeds, steps=6, width=64, height=64, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pipeline(host: StandaloneHost) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=host._vae,
        text_encoder=host._texts["clip_l"].model,
        tokenizer=host._texts["clip_l"]._tokenizer,
        unet=host._unet,
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def by_diffusers(pipeline: StableDiffusionPipeline, prompt: str, seed: int) -> np.ndarray:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        prompt, latents=noise, num_inference_steps=6, guidance_scale=5.0, height=64, width=64
    ).images[0]
    return np.asarray(image, dtype=int)


def test_pictures_equal_diffusers_own(host: StandaloneHost, pipeline: StableDiffusionPipeline) -> None:
    ours = np.asarray(host.sample(request([PROMPT], [7]))[0], dtype=int)
    assert np.abs(ours - by_diffusers(pipeline, PROMPT, 7)).max() <= 1
    assert ours.std() > 10


def test_diffusers_draws_the_same_with_our_embedding_file(
    host: StandaloneHost, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    vectors = host.token_vectors("clip_l")[host.tokenize("outlined green heart")].clone()
    embedding = Embedding(name="zqx-heart", vectors={"clip_l": vectors}, step=1, metadata={"family": "sd1"})
    write_safetensors(embedding, tmp_path / "zqx-heart.safetensors")
    prompt = "a zqx-heart on a white background"
    with host.lend():
        host.set_embeddings({"zqx-heart": embedding.vectors})
        ours = np.asarray(host.sample(request([prompt], [3]))[0], dtype=int)
        host.set_embeddings({})
        without = np.asarray(host.sample(request([prompt], [3]))[0], dtype=int)
    tokens_before = len(pipeline.tokenizer)
    rows = host._texts["clip_l"].model.get_input_embeddings().weight.detach().clone()
    try:
        pipeline.load_textual_inversion(str(tmp_path / "zqx-heart.safetensors"), token="zqx-heart")
        theirs = by_diffusers(pipeline, prompt, 3)
    finally:
        pipeline.unload_textual_inversion()
        model = host._texts["clip_l"].model
        model.resize_token_embeddings(tokens_before)
        model.get_input_embeddings().weight.data.copy_(rows)
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - without).max() > 50


def test_a_picture_does_not_depend_on_its_batch(host: StandaloneHost) -> None:
    together = host.sample(request([PROMPT, "a green heart", PROMPT], [1, 2, 3]))
    alone = [host.sample(request([p], [s]))[0] for p, s in ((PROMPT, 1), ("a green heart", 2), (PROMPT, 3))]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


def test_sampling_leaves_global_randomness_alone(host: StandaloneHost) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    host.sample(request([PROMPT], [1]))
    assert torch.equal(torch.rand(3), expected)


def test_the_negative_prompt_and_the_scale_matter(host: StandaloneHost) -> None:
    pictures = [
        host.sample(request([PROMPT], [1], **more))[0].tobytes()
        for more in ({}, {"negative_prompt": "blue"}, {"cfg_scale": 1.0})
    ]
    assert len(set(pictures)) == 3


def test_a_loan_freezes_and_gives_back_after_an_error_too(host: StandaloneHost) -> None:
    modules = host._modules()
    first = next(modules[0].parameters())
    first.requires_grad_(True)
    flags = [p.requires_grad for module in modules for p in module.parameters()]

    def borrow() -> None:
        with host.lend():
            assert not any(p.requires_grad for module in modules for p in module.parameters())
            host.set_embeddings({"zqx": {"clip_l": torch.zeros(1, 64)}})
            raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        borrow()
    assert [p.requires_grad for module in modules for p in module.parameters()] == flags
    assert host.count_triggers("a zqx") == {}
    first.requires_grad_(False)


def test_images_to_latents_and_back(host: StandaloneHost) -> None:
    from lib_ti.tinyworld.corpus import HELD_OUT_SEED, make_corpus, to_pixels
    from lib_ti.tinyworld.world import KNOWN

    pixels = to_pixels(make_corpus(16, HELD_OUT_SEED, KNOWN).pictures)
    latents = host.encode_images(pixels)
    assert latents.mean.shape == latents.std.shape == (16, 4, 8, 8)
    assert float(latents.mean.std()) == pytest.approx(1, abs=0.3)
    with torch.no_grad():
        assert float((host.decode(latents.mean) - pixels).abs().mean()) < 0.1


def test_an_embedding_for_another_family_is_refused(host: StandaloneHost) -> None:
    with pytest.raises(BadInput, match="made for clip_g and clip_l"):
        host.set_embeddings({"xl": {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}})


def test_sizes_and_devices_are_checked(host: StandaloneHost) -> None:
    with pytest.raises(BadInput, match="multiples of 8"):
        host.sample(SampleRequest(prompts=["a"], seeds=[1], width=65, height=64))
    with pytest.raises(BadInput, match="device 'abacus'"):
        StandaloneHost.load("builtin", "abacus")
