"""What the project ships: the built-in checkpoint and its judge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open

from lib_ti.bench.world import bench_world
from lib_ti.hosts.checkpoints import BUILTIN
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.tinyworld.build import JUDGE_GOAL, VAE_GOAL, held_out_accuracy
from lib_ti.tinyworld.judge import Judge
from lib_ti.tinyworld.render import render
from lib_ti.tinyworld.world import ATTRIBUTES, Scene


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


def test_the_judge_reads_held_out_renders(judge: Judge) -> None:
    accuracy = held_out_accuracy(judge, None, 600)
    assert accuracy.keys() == set(ATTRIBUTES)
    assert min(accuracy.values()) >= JUDGE_GOAL, accuracy


def test_the_vae_keeps_every_attribute(judge: Judge, host: StandaloneHost) -> None:
    accuracy = held_out_accuracy(judge, host._vae, 400)
    assert min(accuracy.values()) >= VAE_GOAL, accuracy


def test_a_verdict_counts_what_was_asked(judge: Judge) -> None:
    picture = render(Scene("star", "red", "white", "solid", "large", "flat", "middle"))
    asked = [{"shape": "star", "colour": "red"}, {"shape": "heart", "colour": "red"}]
    verdict = judge.verdict([picture, picture], asked)
    assert verdict.right == [True, False]
    assert verdict.success == 0.5
    assert verdict.per_attribute == {"shape": 0.5, "colour": 1.0}


def test_a_blank_picture_is_not_what_was_asked(judge: Judge) -> None:
    asked = [{"shape": shape} for shape in ("star", "heart", "moon", "cross", "arrow")]
    assert judge.verdict([Image.new("RGB", (64, 64), "grey")] * 5, asked).success <= 0.2


def test_the_model_draws_what_prompts_ask_for(judge: Judge, host: StandaloneHost) -> None:
    """A small sample of ``bench world``; the goal there is 0.90 over 256 pictures."""
    with host.lend():
        assert bench_world(host, judge, images=64, seed=99)["success"] >= 0.8


def test_one_file_in_ldm_layout_of_true_anatomy() -> None:
    assert BUILTIN.stat().st_size <= 32 * 2**20
    with safe_open(BUILTIN, "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
        dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}
    assert dtypes == {"F16"}
    text = "cond_stage_model.transformer.text_model."
    assert shapes[text + "embeddings.token_embedding.weight"] == (49408, 64)
    assert shapes[text + "embeddings.position_embedding.weight"] == (77, 64)
    assert text + "encoder.layers.3.mlp.fc2.weight" in shapes
    unet = [key for key in shapes if key.startswith("model.diffusion_model.")]
    assert len(unet) == 686  # as many tensors as Stable Diffusion 1.5 has
    assert all(
        shape[0] % 32 == 0
        for key, shape in shapes.items()
        if key in unet and key.endswith("in_layers.0.weight")
    )


def test_diffusers_loads_the_same_file_by_its_yaml(host: StandaloneHost, tmp_path: Path) -> None:
    """With diffusers' own single-file loader, offline."""
    config = str(BUILTIN.with_suffix(".yaml"))
    unet = UNet2DConditionModel.from_single_file(str(BUILTIN), original_config=config)
    vae = AutoencoderKL.from_single_file(str(BUILTIN), original_config=config)
    for ours, theirs in ((host._unet, unet), (host._vae, vae)):
        mine, others = ours.state_dict(), theirs.state_dict()
        assert mine.keys() == others.keys()
        assert all(torch.equal(mine[key], others[key].float()) for key in mine)
    latents, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    hidden = torch.randn(1, 77, 64)
    with torch.no_grad():
        one = host._unet(latents, t, encoder_hidden_states=hidden).sample
        other = unet.float()(latents, t, encoder_hidden_states=hidden).sample
    torch.testing.assert_close(one, other)


def test_the_yaml_says_sd1() -> None:
    params = yaml.safe_load(BUILTIN.with_suffix(".yaml").read_text())["model"]["params"]
    assert (params["linear_start"], params["linear_end"], params["timesteps"]) == (0.00085, 0.012, 1000)
    assert params["scale_factor"] == 0.18215
    assert params["unet_config"]["params"]["channel_mult"] == [1, 2, 4, 4]
