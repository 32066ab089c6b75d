from __future__ import annotations

from collections import Counter

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_ti.formats import ldm
from lib_ti.networks.layers import family_of, find_layers, find_stored_layers, parts_of, trained_layers
from tests.hosts.tiny import new_sd2, new_sdxl, sdxl_state, shapes_of, to_open_clip

DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


def text(width: int, layers: int, kind: type = CLIPTextModel) -> nn.Module:
    return kind(
        CLIPTextConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            projection_dim=width,
        )
    )


def true_sd1() -> dict[str, nn.Module]:
    unet = UNet2DConditionModel(down_block_types=DOWN, up_block_types=UP, cross_attention_dim=768)
    return {"unet": unet, "te": text(768, 12)}


def true_sd2() -> dict[str, nn.Module]:
    unet = UNet2DConditionModel(
        down_block_types=DOWN,
        up_block_types=UP,
        cross_attention_dim=1024,
        attention_head_dim=[5, 10, 20, 20],
        use_linear_projection=True,
    )
    return {"unet": unet, "te": text(1024, 23)}


def true_sdxl() -> dict[str, nn.Module]:
    unet = UNet2DConditionModel(
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
    return {"unet": unet, "te1": text(768, 12), "te2": text(1280, 32, CLIPTextModelWithProjection)}


def on_meta(family: str) -> dict[str, nn.Module]:
    with torch.device("meta"):
        return COUNTS[family][0]()


# By sd-scripts' own count.
COUNTS = {
    "sd1": (true_sd1, {"unet": 192, "te": 72}, 278),
    "sd2": (true_sd2, {"unet": 192, "te": 138}, 278),
    "sdxl": (true_sdxl, {"unet": 722, "te1": 72, "te2": 192}, 788),
}


@pytest.mark.parametrize("family", COUNTS)
def test_the_true_models_have_as_many_layers_as_trainers_say(family):
    _, lierla, c3lier = COUNTS[family]
    layers = find_layers(on_meta(family), family)
    assert Counter(layer.part for layer in trained_layers(layers, conv=False).values()) == lierla
    with_conv = trained_layers(layers, conv=True)
    assert Counter(layer.part for layer in with_conv.values()) == {**lierla, "unet": c3lier}
    assert all(name == layer.name for name, layer in layers.items())
    assert not any(layer.kind == "norm" for layer in with_conv.values())


@pytest.mark.parametrize(
    ("family", "name", "kind", "scope", "block"),
    [
        ("sd1", "lora_unet_conv_in", "conv", "full", 0),
        ("sd1", "lora_unet_time_embedding_linear_1", "linear", "full", 0),
        ("sd1", "lora_unet_down_blocks_0_attentions_0_proj_in", "conv1x1", "lierla", 1),
        ("sd1", "lora_unet_down_blocks_0_attentions_0_norm", "norm", "full", 1),
        ("sd1", "lora_unet_down_blocks_0_downsamplers_0_conv", "conv", "c3lier", 3),
        ("sd1", "lora_unet_down_blocks_1_resnets_0_conv_shortcut", "conv1x1", "c3lier", 4),
        ("sd1", "lora_unet_down_blocks_3_resnets_1_conv2", "conv", "c3lier", 11),
        ("sd1", "lora_unet_mid_block_resnets_1_time_emb_proj", "linear", "c3lier", 12),
        ("sd1", "lora_unet_up_blocks_0_upsamplers_0_conv", "conv", "c3lier", 15),
        (
            "sd1",
            "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_0_proj",
            "linear",
            "lierla",
            18,
        ),
        (
            "sd1",
            "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0",
            "linear",
            "lierla",
            24,
        ),
        ("sd1", "lora_te_text_model_encoder_layers_11_self_attn_out_proj", "linear", "lierla", None),
        ("sd1", "lora_te_text_model_final_layer_norm", "norm", "full", None),
        ("sd2", "lora_unet_down_blocks_0_attentions_0_proj_in", "linear", "lierla", 1),
        ("sdxl", "lora_unet_label_emb_0_0", "linear", "full", 0),
        ("sdxl", "lora_unet_input_blocks_3_0_op", "conv", "c3lier", 4),
        ("sdxl", "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", "linear", "lierla", 5),
        ("sdxl", "lora_unet_middle_block_1_proj_in", "linear", "lierla", 11),
        ("sdxl", "lora_unet_output_blocks_2_2_conv", "conv", "c3lier", 15),
        ("sdxl", "lora_unet_output_blocks_8_0_skip_connection", "conv1x1", "c3lier", 21),
        ("sdxl", "lora_unet_out_2", "conv", "full", 22),
        ("sdxl", "lora_te2_text_model_encoder_layers_31_mlp_fc1", "linear", "lierla", None),
    ],
)
def test_what_a_layer_is(family, name, kind, scope, block):
    layer = find_layers(on_meta(family), family)[name]
    assert (layer.kind, layer.scope, layer.block) == (kind, scope, block)


def sd1_parts(host):
    return {"unet": host._unet, "te": host._texts["clip_l"].model}


def checkpoint(family, host):
    """Living parts in diffusers' and transformers' layout, and the same model as a checkpoint file."""
    if family == "sd1":
        parts = sd1_parts(host)
        unet, te = (part.state_dict() for part in parts.values())
        return parts, ldm.to_ldm(unet, {}, te)
    if family == "sd2":
        unet, _, te = new_sd2()
        state = ldm.to_ldm(unet.state_dict(), {}, {})
        return {"unet": unet, "te": te}, state | to_open_clip(te, ldm.OPEN_CLIP, 24)
    unet, _, first, second = parts = new_sdxl()
    return {"unet": unet, "te1": first, "te2": second}, sdxl_state(parts)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_checkpoint_has_the_same_layers_as_the_living_model(family, host):
    parts, state = checkpoint(family, host)
    living = find_layers(parts, family)
    stored = find_stored_layers(shapes_of(state), family)
    # The only thing that OpenCLIP keeps as a bare matrix, the other way round.
    assert living.keys() - stored.keys() <= {"lora_te2_text_projection"}
    assert stored.keys() <= living.keys()
    for name, layer in stored.items():
        other = living[name]
        assert (layer.kind, layer.scope, layer.block) == (other.kind, other.scope, other.block)
        weight = state[layer.key]
        assert torch.equal(weight if layer.rows is None else weight[layer.rows], other.weight)
        if other.bias is not None:
            bias = state[layer.bias_key]
            assert torch.equal(bias if layer.rows is None else bias[layer.rows], other.bias)


class OpenClipBlock(nn.Module):
    """OpenCLIP's ResidualAttentionBlock, as far as it has weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 2 * width), "c_proj": nn.Linear(2 * width, width)})


def open_clip(width: int, blocks: int) -> nn.Module:
    model = nn.Module()
    model.transformer = nn.Module()
    model.transformer.resblocks = nn.ModuleList(OpenClipBlock(width) for _ in range(blocks))
    model.ln_final = nn.LayerNorm(width)
    model.token_embedding = nn.Embedding(10, width)
    return model


def test_fused_projections_are_three_layers():
    model = open_clip(8, 2)
    layers = find_layers({"te2": model}, "sdxl")
    attention = model.transformer.resblocks[1].attn
    key = layers["lora_te2_text_model_encoder_layers_1_self_attn_k_proj"]
    assert key.module is attention and key.attention is attention
    assert torch.equal(key.weight, attention.in_proj_weight[8:16])
    assert torch.equal(key.bias, attention.in_proj_bias[8:16])
    assert key.weight.data_ptr() == attention.in_proj_weight[8:16].data_ptr()
    out = layers["lora_te2_text_model_encoder_layers_1_self_attn_out_proj"]
    assert out.module is attention.out_proj and out.attention is attention
    assert layers["lora_te2_text_model_encoder_layers_1_mlp_fc1"].attention is None


def test_sd2_leaves_the_last_block_of_open_clip_alone():
    layers = find_layers({"te": open_clip(8, 3)}, "sd2")
    assert len(trained_layers(layers, conv=False)) == 12
    assert not any("layers_2" in name for name in layers)


def test_a_part_of_another_family_is_refused():
    with pytest.raises(ValueError, match="te1"):
        find_layers({"te1": text(64, 1)}, "sd1")


def test_the_family_and_the_parts_are_seen():
    unet, _, te = new_sd2()
    assert family_of({"unet": unet}) == "sd2"
    assert parts_of(unet).keys() == {"unet"} and parts_of(te).keys() == {"te"}
    assert family_of({"te": open_clip(8, 1)}) == "sd2"
    xl, _, first, second = new_sdxl()
    assert family_of({"unet": xl}) == family_of({"te1": first, "te2": second}) == "sdxl"
    with pytest.raises(TypeError, match="neither a pipeline"):
        parts_of(object())
