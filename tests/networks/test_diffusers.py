"""The same files in diffusers, with its own loader and PEFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.hosts.tokenizer import build_clip_tokenizer
from lib_ti.networks import attach, read_network
from lib_ti.networks.algebra import LowRank
from lib_ti.networks.files import network_metadata, tensors_of, write_network
from lib_ti.networks.layers import find_layers, parts_of, trained_layers
from tests.hosts.tiny import new_sd2, new_sdxl
from tests.networks.random_networks import random_updates


@pytest.fixture
def pipeline() -> StableDiffusionPipeline:
    """Around copies of the built-in checkpoint's models, which diffusers' loader changes."""
    fresh = StandaloneHost.load("builtin", "cpu")
    parts = fresh.parts()
    made = StableDiffusionPipeline(
        vae=fresh._vae,
        text_encoder=parts["te"],
        tokenizer=fresh._texts["clip_l"]._tokenizer,
        unet=parts["unet"],
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline) -> np.ndarray:
    """(1, h, w, 3), 0..1."""
    generator = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": 4, "guidance_scale": 5.0, "height": 64, "width": 64}
    return pipeline("a red circle", generator=generator, output_type="np", **options).images


def write(path: Path, pipeline: StableDiffusionPipeline, *, conv: bool) -> Path:
    parts = {"unet": pipeline.unet, "te": pipeline.text_encoder}
    updates = random_updates(trained_layers(find_layers(parts, "sd1"), conv=conv))
    metadata = network_metadata("sd1", dim=4, alpha=2.0, title=path.stem)
    write_network(path, tensors_of(updates), metadata)
    return path


@pytest.mark.parametrize("conv", [False, True], ids=["LierLa", "C3Lier"])
def test_diffusers_draws_the_same_picture_with_our_file(pipeline, conv, tmp_path):
    path = write(tmp_path / "x.safetensors", pipeline, conv=conv)
    plain = draw(pipeline)
    with attach(pipeline, path) as attached:
        ours = draw(pipeline)
        attached.set_multiplier(0.5)
        halved = draw(pipeline)
    assert np.array_equal(draw(pipeline), plain)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    np.testing.assert_allclose(draw(pipeline), ours, atol=1e-3)
    pipeline.set_adapters(pipeline.get_active_adapters(), 0.5)
    np.testing.assert_allclose(draw(pipeline), halved, atol=1e-3)
    assert np.abs(ours - plain).max() > 0.02 and np.abs(ours - halved).max() > 0.01


def new_pipeline(family: str) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Tiny, with random weights."""
    tokenizer = build_clip_tokenizer()
    shared = {"tokenizer": tokenizer, "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1)}
    if family == "sd2":
        unet, vae, text_encoder = new_sd2()
        optional = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        made = StableDiffusionPipeline(vae=vae, unet=unet, text_encoder=text_encoder, **shared, **optional)
    else:
        unet, vae, first, second = new_sdxl()
        encoders = {"text_encoder": first, "text_encoder_2": second, "tokenizer_2": tokenizer}
        made = StableDiffusionXLPipeline(vae=vae, unet=unet, **encoders, **shared, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_diffusers_draws_the_same_picture_of_another_family(family, tmp_path):
    """With every layer that we train, of every part."""
    pipeline = new_pipeline(family)
    parts = parts_of(pipeline)
    layers = trained_layers(find_layers(parts, family), conv=True)
    path = tmp_path / "x.safetensors"
    metadata = network_metadata(family, dim=4, alpha=2.0, title="x")
    write_network(path, tensors_of(random_updates(layers)), metadata)
    plain = draw(pipeline)
    with attach(pipeline, path) as attached:
        assert attached.report.startswith(f"applied {len(layers)} of {len(layers)} modules")
        ours = draw(pipeline)
        attached.set_multiplier({part: 1.0 for part in parts if part != "unet"})
        by_text = draw(pipeline)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    np.testing.assert_allclose(draw(pipeline), ours, atol=1e-3)
    # Both the U-Net and the text encoders have a part in it that would be missed.
    assert min(np.abs(ours - plain).max(), np.abs(ours - by_text).max(), np.abs(by_text - plain).max()) > 0.01


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["LoRA", "DoRA"])
def test_a_file_that_diffusers_saved_is_read_as_it_was(pipeline, options, tmp_path):
    config = LoraConfig(
        r=4, lora_alpha=4, init_lora_weights=False, target_modules=["to_q", "to_out.0", "proj_in"], **options
    )
    torch.manual_seed(1)
    pipeline.unet.add_adapter(config)
    theirs = draw(pipeline)
    saved = get_peft_model_state_dict(pipeline.unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=saved)
    pipeline.unet.delete_adapters("default")
    pipeline.unload_lora_weights()
    network = read_network(tmp_path / "pytorch_lora_weights.safetensors")
    assert not network.unread and len(network.updates) == len(saved) // (3 if options else 2)
    if not options:
        update = network.updates["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"]
        assert isinstance(update, LowRank)
        key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_{}.weight"
        assert torch.equal(update.down, saved[key.format("A")])
        assert torch.equal(update.up, saved[key.format("B")])
    with attach(pipeline, network) as attached:
        assert not attached.unmatched
        np.testing.assert_allclose(draw(pipeline), theirs, atol=1e-3)
