from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModel

from lib_ti.core.errors import BadInput
from lib_ti.formats import ldm
from lib_ti.hosts import checkpoints
from lib_ti.hosts.checkpoints import load_components
from lib_ti.hosts.components import Components
from lib_ti.hosts.tokenizer import build_clip_tokenizer
from tests.hosts.tiny import SD2_BLOCKS, State, shapes_of, to_open_clip, write

Parts = tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model on the disk needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def new_parts(channels: tuple[int, ...], heads: int | list[int], text: CLIPTextConfig, linear: bool) -> Parts:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=channels,
        attention_head_dim=heads,
        cross_attention_dim=64,
        use_linear_projection=linear,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
    )
    parts = unet, vae, CLIPTextModel(text)
    for part in parts:  # what the file holds, so that a round trip in half precision is exact
        part.half().float().eval()
    return parts


@pytest.fixture(scope="module")
def sd1() -> Parts:
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    return new_parts((32, 32, 64, 64), 4, config, linear=False)


@pytest.fixture(scope="module")
def sd1_state(sd1: Parts) -> State:
    state = ldm.to_ldm(*(part.state_dict() for part in sd1))
    return {key: tensor.half() for key, tensor in state.items()}


def sd1_config(state: State) -> dict:
    return ldm.ldm_config(shapes_of(state), heads=4, image_size=8)


def assert_same_parts(loaded: Components, parts: Parts) -> None:
    for ours, source in zip((loaded.unet, loaded.vae, loaded.text_encoder), parts, strict=True):
        state = source.state_dict()
        assert ours.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[key]) for key, tensor in ours.state_dict().items())
        assert not ours.training
        assert not any(parameter.requires_grad for parameter in ours.parameters())


@torch.no_grad()
def assert_same_answers(loaded: Components, parts: Parts) -> None:
    """Equal weights can still be run by the wrong plan: heads, activations, projections."""
    unet, vae, text_encoder = parts
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(100, (1, 77), generator=generator)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    pixels = torch.randn(1, 3, 16, 16, generator=generator)
    hidden = text_encoder(tokens).last_hidden_state
    assert_close(loaded.text_encoder(tokens).last_hidden_state, hidden)
    assert_close(loaded.unet(latents, 500, hidden).sample, unet(latents, 500, hidden).sample)
    assert_close(loaded.vae.encode(pixels).latent_dist.mean, vae.encode(pixels).latent_dist.mean)
    assert_close(loaded.vae.decode(latents).sample, vae.decode(latents).sample)


@pytest.fixture
def sd1_file(tmp_path: Path, sd1_state: State) -> Path:
    return write(tmp_path / "tiny.safetensors", sd1_state, sd1_config(sd1_state), **{ldm.CLIP_HEADS: "4"})


def test_safetensors_with_yaml(sd1_file: Path, sd1: Parts):
    loaded = load_components(sd1_file)
    assert_same_parts(loaded, sd1)
    assert_same_answers(loaded, sd1)
    assert (loaded.name, loaded.family, loaded.prediction, loaded.native_size) == ("tiny", "sd1", "eps", 64)
    assert loaded.sha256 == hashlib.sha256(sd1_file.read_bytes()).hexdigest()
    assert loaded.vae.config.scaling_factor == 0.18215
    assert loaded.tokenizer.pad_token_id == 49407


def test_noise_schedule_is_that_of_ldm(sd1_file: Path):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, 0)
    found = load_components(sd1_file).alphas_cumprod
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=0)


def test_half_precision_on_request(sd1_file: Path):
    loaded = load_components(sd1_file, torch.float16)
    dtypes = {p.dtype for part in (loaded.unet, loaded.vae, loaded.text_encoder) for p in part.parameters()}
    assert dtypes == {torch.float16}


def test_builtin(sd1_file: Path, sd1: Parts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "BUILTIN", sd1_file)
    assert_same_answers(load_components("builtin"), sd1)


def test_ckpt_with_objects_that_are_never_made(tmp_path: Path, sd1: Parts, sd1_state: State):
    path = tmp_path / "tiny.ckpt"
    torch.save(
        {"state_dict": sd1_state, "callbacks": {argparse.Namespace: {"best": argparse.Namespace()}}}, path
    )
    assert_same_parts(load_components(path), sd1)
    torch.save(sd1_state, path)  # flat
    assert_same_parts(load_components(path), sd1)


def test_content_decides_not_the_extension(tmp_path: Path, sd1: Parts, sd1_file: Path):
    shutil.copy(sd1_file, tmp_path / "misnamed.ckpt")
    assert_same_parts(load_components(tmp_path / "misnamed.ckpt"), sd1)


def test_text_encoder_names_of_2022(tmp_path: Path, sd1: Parts, sd1_state: State):
    old = {key.replace("transformer.text_model.", "transformer."): value for key, value in sd1_state.items()}
    assert old.keys() != sd1_state.keys()
    assert_same_parts(load_components(write(tmp_path / "old.safetensors", old)), sd1)


def test_training_left_overs_are_reported(tmp_path: Path, sd1_state: State, caplog: pytest.LogCaptureFixture):
    more = sd1_state | {"model_ema.decay": torch.ones(1), "betas": torch.ones(1000)}
    more |= {f"{ldm.CLIP}vision_model.weight": torch.ones(1)}
    with caplog.at_level(logging.INFO):
        load_components(write(tmp_path / "more.safetensors", more))
    assert "ignored 2 tensors: " in caplog.text
    assert "model_ema (1)" in caplog.text
    assert "vision_model.weight" in caplog.text


def test_zero_terminal_snr_mark(tmp_path: Path, sd1_state: State):
    marked = sd1_state | {"ztsnr": torch.ones(1), "v_pred": torch.ones(1)}
    loaded = load_components(write(tmp_path / "v.safetensors", marked))
    assert loaded.alphas_cumprod[-1] < 1e-6
    assert loaded.prediction == "v"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sd1: Parts) -> Path:
    unet, vae, text_encoder = sd1
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae, text_encoder, build_clip_tokenizer(), unet, scheduler, None, None, requires_safety_checker=False
    )
    path = tmp_path_factory.mktemp("models") / "a-folder"
    pipeline.save_pretrained(path)
    return path


def test_diffusers_folder(folder: Path, sd1_file: Path, sd1: Parts):
    loaded = load_components(folder)
    assert_same_parts(loaded, sd1)
    assert_same_answers(loaded, sd1)
    assert (loaded.name, loaded.family, loaded.prediction) == ("a-folder", "sd1", "v")
    assert (loaded.native_size, loaded.sha256) == (64, "")
    assert torch.equal(loaded.alphas_cumprod, load_components(sd1_file).alphas_cumprod)
    assert loaded.tokenizer("a red star").input_ids == build_clip_tokenizer()("a red star").input_ids


def test_folder_in_half_precision_files(tmp_path: Path, folder: Path, sd1: Parts):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for part, model in zip(("unet", "vae", "text_encoder"), sd1, strict=True):
        (weights,) = (tmp_path / part).glob("*.safetensors")
        weights.unlink()
        half = {key: tensor.half() for key, tensor in model.state_dict().items()}
        save_file(half, weights.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    assert_same_parts(load_components(tmp_path), sd1)


def test_folder_refusals(tmp_path: Path, folder: Path):
    with pytest.raises(BadInput, match=r"no model_index\.json"):
        load_components(tmp_path)
    shutil.copytree(folder, tmp_path / "model")
    config_file = tmp_path / "model/unet/config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | {"in_channels": 9}))
    with pytest.raises(BadInput, match="is an inpainting model with 9 input channels"):
        load_components(tmp_path / "model")
    config_file.write_text(json.dumps(config | {"addition_embed_type": "text_image"}))
    with pytest.raises(BadInput, match="listens to more than text"):
        load_components(tmp_path / "model")
    config_file.write_text(json.dumps(config | {"addition_embed_type": "text_time"}))
    with pytest.raises(BadInput, match="is no complete diffusers folder"):
        load_components(tmp_path / "model")
    config_file.unlink()
    with pytest.raises(BadInput, match="is no complete diffusers folder"):
        load_components(tmp_path / "model")
    weights = tmp_path / "model/vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BadInput, match=r"vae holds no \.safetensors weights.*convert the folder"):
        load_components(tmp_path / "model")


@pytest.fixture(scope="module")
def sd2() -> Parts:
    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=SD2_BLOCKS - 1,
        num_attention_heads=1,
        intermediate_size=128,
        hidden_act="gelu",
    )
    return new_parts((64, 64, 64, 64), [1, 1, 1, 1], config, linear=True)


@pytest.fixture(scope="module")
def sd2_state(sd2: Parts) -> State:
    unet, vae, text_encoder = sd2
    state = ldm.to_ldm(unet.state_dict(), vae.state_dict(), {}) | to_open_clip(
        text_encoder, ldm.OPEN_CLIP, SD2_BLOCKS
    )
    return {key: tensor.half() for key, tensor in state.items()}


def test_sd2_layout(tmp_path: Path, sd2: Parts, sd2_state: State):
    loaded = load_components(write(tmp_path / "sd2.safetensors", sd2_state))
    assert_same_parts(loaded, sd2)
    assert_same_answers(loaded, sd2)
    assert (loaded.family, loaded.prediction, loaded.native_size) == ("sd2", "v", 768)
    assert "does not say whether it predicts eps or v: it is taken for v" in loaded.prediction_told
    assert loaded.tokenizer.pad_token_id == 0


def test_who_decides_the_prediction_of_sd2(tmp_path: Path, sd2_state: State):
    shapes = shapes_of(sd2_state)
    path = tmp_path / "sd2.safetensors"
    hint = {"modelspec.prediction_type": "epsilon"}
    hinted = load_components(write(path, sd2_state, **hint))
    assert (hinted.prediction, hinted.native_size) == ("eps", 512)
    described = load_components(write(path, sd2_state, ldm.ldm_config(shapes, parameterization="v"), **hint))
    assert (described.prediction, described.native_size) == ("v", 768)
    assert load_components(path, prediction="eps").prediction == "eps"


@pytest.mark.parametrize(
    ("key", "shape", "kind"),
    [
        ("conditioner.embedders.0.model.ln_final.bias", (8,), "the SDXL refiner"),
        ("edm_vpred.sigma_max", (), "a model on the EDM schedule"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", (8, 4), "a LoRA file"),
        ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight", (8, 4), "a LoRA file"),
        ("first_stage_model.decoder.conv_in.weight", (8, 4, 3, 3), "a VAE"),
        ("decoder.conv_in.weight", (8, 4, 3, 3), "a VAE"),
        ("down_blocks.0.resnets.0.conv1.weight", (8, 8, 3, 3), "one part of a diffusers folder"),
        ("control_model.input_blocks.0.0.weight", (8, 4, 3, 3), "a ControlNet"),
        ("model.diffusion_model.input_blocks.0.0.weight", (8, 9, 3, 3), "an inpainting model with 9 input"),
        ("model.diffusion_model.input_blocks.0.0.weight", (8, 4, 3, 3), "a checkpoint without its VAE"),
        ("emb_params", (2, 8), "of another kind"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, key: str, shape: tuple[int, ...], kind: str):
    path = write(tmp_path / "other.safetensors", {key: torch.zeros(shape)})
    with pytest.raises(BadInput, match=rf"other\.safetensors is {kind}.*SD1\.x, SD2\.x or SDXL"):
        load_components(path)


def test_damaged_and_incomplete_files(tmp_path: Path, sd1_state: State):
    path = tmp_path / "bad.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadInput, match="is no checkpoint but a pointer of Git LFS"):
        load_components(path)
    write(path, sd1_state)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadInput, match="is not a whole safetensors file"):
        load_components(path)
    gone = {key: value for key, value in sd1_state.items() if "output_blocks.5." not in key}
    with pytest.raises(BadInput, match=r"lacks \d+ weights of its UNet2DConditionModel: up_blocks\.1"):
        load_components(write(path, gone))
    gone = {key: value for key, value in sd1_state.items() if not key.endswith("final_layer_norm.bias")}
    with pytest.raises(BadInput, match="lacks 1 weights of its CLIPTextModel: text_model"):
        load_components(write(path, gone))


def test_a_yaml_of_another_model(tmp_path: Path, sd1_state: State):
    config = sd1_config(sd1_state)
    path = write(tmp_path / "tiny.safetensors", sd1_state, config)
    config["model"]["params"]["unet_config"]["params"]["model_channels"] = 64
    path.with_suffix(".yaml").write_text(ldm.ldm_yaml(config))
    with pytest.raises(BadInput, match=r"has shape .* wants .*; is the \.yaml beside it its own\?"):
        load_components(path)
    for text in ("model: {params: {image_size: 8}}", "[", "", "model: !!python/object/apply:os.getcwd []"):
        path.with_suffix(".yaml").write_text(text)
        with pytest.raises(BadInput, match=r"tiny\.yaml does not describe a model"):
            load_components(path)


def test_no_such_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadInput, match="There is no model at"):
        load_components(tmp_path / "nothing.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="some-organisation/some-model is not here, and no hub gave it"):
        load_components("some-organisation/some-model")
