from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from transformers import CLIPTextConfig, CLIPTextModel

from lib_ti.core.errors import BadInput
from lib_ti.formats import ldm

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

diffusers = pytest.importorskip("diffusers")
theirs = pytest.importorskip("diffusers.loaders.single_file_utils")

DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


def new_unet(channels: tuple[int, ...], heads: int, context: int) -> UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=DOWN,
        up_block_types=UP,
        block_out_channels=channels,
        attention_head_dim=heads,
        cross_attention_dim=context,
    )


def new_vae(channels: tuple[int, ...], layers: int) -> AutoencoderKL:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=layers,
    )


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in state.items()}


@pytest.fixture(scope="module")
def parts() -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """The plan of the built-in checkpoint."""
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256
    )
    return new_unet((32, 64, 128, 128), 4, 64), new_vae((32, 32, 64, 128), 1), CLIPTextModel(config)


@pytest.fixture(scope="module")
def state(parts) -> dict[str, torch.Tensor]:
    return ldm.to_ldm(*(part.state_dict() for part in parts))


def assert_same_state(ours: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == other.keys()
    assert all(torch.equal(ours[key], other[key]) for key in ours)


def test_diffusers_own_converters_give_the_state_dicts_back(parts, state):
    unet, vae, text_encoder = (part.state_dict() for part in parts)
    config = yaml.safe_load(ldm.ldm_yaml(ldm.ldm_config(shapes_of(state), heads=4, image_size=8)))

    unet_config = theirs.create_unet_diffusers_config_from_ldm(config, state)
    assert_same_state(theirs.convert_ldm_unet_checkpoint(dict(state), unet_config), unet)
    vae_config = theirs.create_vae_diffusers_config_from_ldm(config, state)
    assert_same_state(theirs.convert_ldm_vae_checkpoint(dict(state), vae_config), vae)
    assert_same_state(theirs.convert_ldm_clip_checkpoint(dict(state)), text_encoder)


def test_the_yaml_describes_the_models(parts, state):
    unet, vae, _ = parts
    config = ldm.ldm_config(shapes_of(state), heads=4, image_size=8, clip_version="some/folder")
    assert yaml.safe_load(ldm.ldm_yaml(config)) == config

    described = theirs.create_unet_diffusers_config_from_ldm(config, state)
    for name in ("down_block_types", "up_block_types", "block_out_channels"):
        assert tuple(described[name]) == tuple(unet.config[name])
    for name in ("layers_per_block", "cross_attention_dim", "attention_head_dim", "out_channels"):
        assert described[name] == unet.config[name]
    described = theirs.create_vae_diffusers_config_from_ldm(config, state)
    assert tuple(described["block_out_channels"]) == vae.config.block_out_channels
    for name in ("layers_per_block", "latent_channels", "scaling_factor", "in_channels", "out_channels"):
        assert described[name] == vae.config[name]
    params = config["model"]["params"]
    assert params["cond_stage_config"]["params"] == {"version": "some/folder"}
    assert params["first_stage_config"]["params"]["ddconfig"]["resolution"] == 64
    assert (params["linear_start"], params["linear_end"], params["timesteps"]) == (0.00085, 0.012, 1000)


def test_names_and_plan_of_the_true_sd15():
    with torch.device("meta"):
        unet = new_unet((320, 640, 1280, 1280), 8, 768)
        vae = new_vae((128, 256, 512, 512), 2)
    state = ldm.to_ldm(unet.state_dict(), vae.state_dict(), {})
    unet_keys = {key.removeprefix(ldm.UNET) for key in state if key.startswith(ldm.UNET)}

    assert len(unet_keys) == 686
    assert len(state) - len(unet_keys) == 248  # of the VAE
    assert unet_keys >= {
        "time_embed.2.bias",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "input_blocks.3.0.op.weight",
        "input_blocks.4.0.skip_connection.weight",
        "input_blocks.11.0.out_layers.3.weight",
        "middle_block.1.norm.weight",
        "middle_block.2.in_layers.2.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.weight",
        "output_blocks.11.1.proj_out.weight",
        "out.2.bias",
    }
    assert state["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert state["first_stage_model.encoder.mid.attn_1.norm.weight"].shape == (512,)
    assert "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight" in state
    assert "first_stage_model.decoder.up.3.upsample.conv.weight" in state
    assert "first_stage_model.encoder.down.2.downsample.conv.weight" in state

    params = ldm.ldm_config(shapes_of(state))["model"]["params"]
    unet_params = params["unet_config"]["params"]
    assert unet_params["attention_resolutions"] == [4, 2, 1]
    assert unet_params["channel_mult"] == [1, 2, 4, 4]
    assert (unet_params["model_channels"], unet_params["context_dim"]) == (320, 768)
    assert unet_params["num_heads"] == 8
    assert params["first_stage_config"]["params"]["ddconfig"]["ch_mult"] == [1, 2, 4, 4]


def test_tables_are_one_to_one(parts):
    unet, vae, _ = parts
    for model, table in ((unet, ldm.unet_names), (vae, ldm.vae_names)):
        keys = model.state_dict().keys()
        used = {
            name: ldm_name
            for name, ldm_name in table(keys).items()
            if any(key.startswith(f"{name}.") for key in keys)
        }
        assert len(set(used.values())) == len(used)


def test_a_parameter_outside_the_plan_is_refused(parts):
    unet, vae, text_encoder = (part.state_dict() for part in parts)
    with pytest.raises(BadInput, match=r"encoder_hid_proj\.weight"):
        ldm.to_ldm({**unet, "encoder_hid_proj.weight": torch.zeros(1)}, vae, text_encoder)


def test_names_and_plan_of_the_true_sdxl():
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            attention_head_dim=[5, 10, 20],
            transformer_layers_per_block=[1, 2, 10],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        vae = new_vae((128, 256, 512, 512), 2)
    state = ldm.to_ldm(unet.state_dict(), vae.state_dict(), {})
    unet_keys = {key.removeprefix(ldm.UNET) for key in state if key.startswith(ldm.UNET)}
    assert len(unet_keys) == 1680
    assert unet_keys >= {
        "label_emb.0.0.weight",
        "label_emb.0.2.bias",
        "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight",
        "input_blocks.8.1.transformer_blocks.9.ff.net.2.weight",
        "middle_block.1.transformer_blocks.9.attn1.to_q.weight",
        "output_blocks.2.2.conv.weight",
        "output_blocks.5.2.conv.weight",
        "output_blocks.8.0.out_layers.3.weight",
    }
    config = ldm.sgm_config(shapes_of(state), parameterization="v")
    assert yaml.safe_load(ldm.ldm_yaml(config)) == config
    params = config["model"]["params"]
    plan = params["network_config"]["params"]
    assert (plan["attention_resolutions"], plan["channel_mult"]) == ([4, 2], [1, 2, 4])
    assert (plan["transformer_depth"], plan["num_head_channels"]) == ([1, 2, 10], 64)
    assert (plan["model_channels"], plan["context_dim"], plan["adm_in_channels"]) == (320, 2048, 2816)
    assert (plan["num_classes"], plan["use_linear_in_transformer"]) == ("sequential", True)
    assert params["scale_factor"] == 0.13025
    assert params["denoiser_config"]["params"]["scaling_config"]["target"].endswith(
        "denoiser_scaling.VScaling"
    )
    described = theirs.create_unet_diffusers_config_from_ldm(config, {})
    assert described["addition_embed_type"] == "text_time"
    for name in ("block_out_channels", "transformer_layers_per_block", "attention_head_dim"):
        assert list(described[name]) == list(unet.config[name])
    assert theirs.convert_ldm_unet_checkpoint(dict(state), described).keys() == unet.state_dict().keys()
    described = theirs.create_vae_diffusers_config_from_ldm(config, {})
    assert (described["scaling_factor"], described["latent_channels"]) == (0.13025, 4)
