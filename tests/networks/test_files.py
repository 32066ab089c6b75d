from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lib_ti.core.errors import BadInput
from lib_ti.networks.algebra import LowRank
from lib_ti.networks.files import (
    family_of_file,
    hashes,
    network_metadata,
    read_network,
    tensors_of,
    write_network,
)
from lib_ti.networks.keys import Key, parse_key
from tests.networks.test_algebra import CASES, IDS, new_layer, norm

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
NAME = f"lora_unet_{Q.replace('.', '_')}"


def factors(rank: int = 2, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(rank, width), torch.randn(width, rank)


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize(("kind", "algorithm"), CASES, ids=IDS)
def test_every_algorithm_is_read_and_written(kind, algorithm, tmp_path):
    layer = new_layer(kind)
    tensors = {f"{NAME}.{key}": tensor for key, tensor in algorithm(layer).items()}
    network = read_network(save(tmp_path / "one.safetensors", tensors))
    assert network.updates.keys() == {NAME} and not network.unread
    write_network(tmp_path / "two.safetensors", tensors_of(network.updates), {})
    again = read_network(tmp_path / "two.safetensors")
    assert torch.equal(again.updates[NAME].delta(layer.weight), network.updates[NAME].delta(layer.weight))
    bias = network.updates[NAME].bias
    assert bias is None or torch.equal(bias, again.updates[NAME].bias)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (f"{NAME}.lora_down.weight", f"{NAME}.lora_up.weight"),
        (f"{NAME}.lora_A.weight", f"{NAME}.lora_B.weight"),
        (f"lycoris_{NAME[10:]}.lora_down.weight", f"lycoris_{NAME[10:]}.lora_up.weight"),
        (f"unet.{Q}.lora_A.weight", f"unet.{Q}.lora_B.weight"),
        (f"unet.{Q}.lora_A.default.weight", f"unet.{Q}.lora_B.default.weight"),
        (f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight"),
        (f"unet.{Q}.lora.down.weight", f"unet.{Q}.lora.up.weight"),
        *(
            (
                f"{start}{Q[:-5]}.processor.to_q_lora.down.weight",
                f"{start}{Q[:-5]}.processor.to_q_lora.up.weight",
            )
            for start in ("unet.", "")
        ),
        (
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_down.weight",
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight",
        ),
    ],
)
def test_every_naming_of_the_unet(down, up, tmp_path):
    a, b = factors()
    network = read_network(save(tmp_path / "x.safetensors", {down: a, up: b}))
    update = network.updates[NAME]
    assert isinstance(update, LowRank)
    assert torch.equal(update.down, a) and torch.equal(update.up, b) and update.scale == 1


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight", "q_proj"),
        ("text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora.up.weight", "q_proj"),
        ("text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora.up.weight", "out_proj"),
        ("text_encoder.text_model.encoder.layers.3.self_attn.out_proj.lora_B.weight", "out_proj"),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.3.self_attn.k_proj.lora_up.weight",
            "k_proj",
        ),
        ("base_model.model.text_model.encoder.layers.3.self_attn.v_proj.lora_B.weight", "v_proj"),
    ],
)
def test_every_naming_of_a_text_encoder(key, name):
    found = parse_key(key)
    assert found == Key(
        "first text encoder", f"text_model.encoder.layers.3.self_attn.{name}", "lora_up.weight"
    )


def test_an_old_processors_output_is_the_first_of_its_parts():
    found = parse_key(
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.down.weight"
    )
    assert found == Key(
        "unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0", "lora_down.weight"
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("down_blocks_1_attentions_0_proj_in", "input_blocks_4_1_proj_in"),
        ("down_blocks_0_downsamplers_0_conv", "input_blocks_3_0_op"),
        ("mid_block_resnets_1_conv1", "middle_block_2_in_layers_2"),
        ("up_blocks_0_upsamplers_0_conv", "output_blocks_2_2_conv"),
        ("up_blocks_1_resnets_2_conv_shortcut", "output_blocks_5_0_skip_connection"),
        ("add_embedding_linear_1", "label_emb_0_0"),
        ("input_blocks_8_1_transformer_blocks_9_ff_net_2", "input_blocks_8_1_transformer_blocks_9_ff_net_2"),
    ],
)
def test_sdxl_has_names_of_the_original_layout(theirs, ours, tmp_path):
    a, b = factors()
    tensors = {f"lora_unet_{theirs}.lora_down.weight": a, f"lora_unet_{theirs}.lora_up.weight": b}
    tensors |= {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": a.clone()}
    tensors |= {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": b.clone()}
    network = read_network(save(tmp_path / "x.safetensors", tensors))
    assert network.family == "sdxl"
    assert f"lora_unet_{ours}" in network.updates


@pytest.mark.parametrize(
    ("width", "metadata", "family"),
    [
        (768, {}, "sd1"),
        (1024, {}, "sd2"),
        (2048, {}, "sdxl"),
        (64, {}, None),
        (64, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        (64, {"ss_base_model_version": "sd_v1", "ss_v2": "True"}, "sd2"),
        (64, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
    ],
)
def test_the_family_is_told_by_metadata_or_widths(width, metadata, family, tmp_path):
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{key}.lora_A.weight": torch.ones(2, width), f"{key}.lora_B.weight": torch.ones(4, 2)}
    path = save(tmp_path / "x.safetensors", tensors, metadata or None)
    assert read_network(path).family == family_of_file(path) == family


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        # The first text encoder of SDXL is as wide as that of SD1.
        ({"unet.mid_block.attentions.0.transformer_blocks.9.attn1.to_q": 8, TEXT: 768}, "sdxl"),
        ({TEXT: 768}, None),
        ({TEXT: 1024}, "sd2"),
        ({"lora_te_text_model_encoder_layers_0_self_attn_q_proj": 768}, "sd1"),
    ],
)
def test_the_family_is_told_by_depth_and_text_encoders(keys, family, tmp_path):
    tensors = {}
    for key, width in keys.items():
        tensors |= {f"{key}.lora_A.weight": torch.ones(2, width), f"{key}.lora_B.weight": torch.ones(4, 2)}
    path = save(tmp_path / "x.safetensors", tensors)
    assert read_network(path).family == family_of_file(path) == family


def test_of_a_pickle_no_family_is_told_without_reading_it(tmp_path):
    torch.save({}, tmp_path / "x.pt")
    assert family_of_file(tmp_path / "x.pt") is None


def test_alpha_of_an_adapter_is_in_its_description(tmp_path):
    a, b = factors()
    tensors = {f"unet.{Q}.lora_A.weight": a, f"unet.{Q}.lora_B.weight": b}
    described = {"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {}}
    for change, scale in (
        ({}, 4),
        ({"unet.alpha_pattern": {"attn1.to_q": 1}}, 0.5),
        ({"unet.use_rslora": True}, 8 / 2**0.5),
    ):
        metadata = {"lora_adapter_metadata": json.dumps(described | change)}
        network = read_network(save(tmp_path / "x.safetensors", tensors, metadata))
        assert network.updates[NAME].scale == pytest.approx(scale)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6}))
    assert read_network(save(tmp_path / "y.safetensors", tensors)).updates[NAME].scale == 3


def test_a_pattern_that_cannot_be_searched_with_is_said(tmp_path):
    a, b = factors()
    tensors = {f"unet.{Q}.lora_A.weight": a, f"unet.{Q}.lora_B.weight": b}
    path = save(tmp_path / "x.safetensors", tensors)
    for patterns in ({"(": 3}, {f"{number}+": 3 for number in range(30)}):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"alpha_pattern": patterns}))
        with pytest.raises(BadInput, match="pattern"):
            read_network(path)


@pytest.mark.parametrize("ending", ["", ".default", ".default.weight", ".weight"])
def test_lengths_of_peft_are_of_rows(ending, tmp_path):
    a, b = factors()
    tensors = {
        f"unet.{Q}.lora_A.weight": a,
        f"unet.{Q}.lora_B.weight": b,
        f"unet.{Q}.lora_magnitude_vector{ending}": torch.arange(1.0, 9.0),
    }
    update = read_network(save(tmp_path / "x.safetensors", tensors)).updates[NAME]
    weight = torch.randn(8, 8)
    torch.testing.assert_close((weight + update.delta(weight)).norm(dim=1), torch.arange(1.0, 9.0))


def test_a_pickle_is_read_without_unpickling(tmp_path):
    a, b = factors()
    path = tmp_path / "x.pt"
    torch.save({f"{NAME}.lora_down.weight": a, f"{NAME}.lora_up.weight": b}, path)
    assert torch.equal(read_network(path).updates[NAME].down, a)


def test_every_key_is_used_or_named(tmp_path):
    a, b = factors()
    tensors = {
        f"{NAME}.lora_down.weight": a,
        f"{NAME}.lora_up.weight": b,
        "lora_unet_conv_in.oft_blocks": torch.ones(2, 2),
        "something.else": torch.ones(1),
        "bundle_emb.word.string_to_param.*": torch.ones(1, 8),
    }
    network = read_network(save(tmp_path / "x.safetensors", tensors))
    assert network.updates.keys() == {NAME} and network.embeddings == ("word",)
    assert network.unread.keys() == {"something.else"} and network.left_out.keys() == {"lora_unet_conv_in"}
    assert "oft_blocks" in network.left_out["lora_unet_conv_in"]


def test_of_two_keys_for_the_same_one_is_named(tmp_path):
    a, b = factors()
    ours = {f"{NAME}.lora_down.weight": a, f"{NAME}.lora_up.weight": b}
    theirs = {f"unet.{Q}.lora_A.weight": a + 1, f"unet.{Q}.lora_B.weight": b + 1}
    network = read_network(save(tmp_path / "x.safetensors", ours | theirs))
    assert len(network.updates) == 1 and len(network.unread) == 2
    assert all("another key says the same" in why for why in network.unread.values())


# What a factor does to a direction is not linear.
SCALED = {id: case for id, case in zip(IDS, CASES, strict=True) if not id.startswith("dora")}


@pytest.mark.parametrize("factor", ["scale", "scalar"])
@pytest.mark.parametrize(("kind", "algorithm"), SCALED.values(), ids=SCALED)
def test_a_factor_counts_for_every_algorithm(kind, algorithm, factor, tmp_path):
    layer = new_layer(kind)
    plain = {f"{NAME}.{key}": tensor for key, tensor in algorithm(layer).items()}
    plain.pop(f"{NAME}.alpha", None)
    one = read_network(save(tmp_path / "one.safetensors", plain)).updates[NAME].delta(layer.weight)
    scaled = plain | {f"{NAME}.{factor}": torch.tensor(0.25)}
    other = read_network(save(tmp_path / "two.safetensors", scaled)).updates[NAME].delta(layer.weight)
    torch.testing.assert_close(other, one * 0.25)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"diff": torch.tensor(1.0)}, "diff has the shape"),
        ({"dora_scale": torch.tensor(1.0)}, "dora_scale has the shape"),
        ({"lora_mid.weight": torch.ones(2)}, "expected a kernel"),
    ],
)
def test_tensors_without_a_shape_are_named(parts, said, tmp_path):
    a, b = factors()
    whole = {} if "diff" in parts else {"lora_down.weight": a, "lora_up.weight": b}
    tensors = {f"{NAME}.{key}": tensor for key, tensor in (whole | parts).items()}
    with pytest.raises(BadInput, match=said):
        read_network(save(tmp_path / "x.safetensors", tensors))


def test_what_does_not_fit_a_layer_is_known_before_it_is_computed():
    a, b = factors()
    assert LowRank(down=a, up=b).fits((8, 8))
    assert not LowRank(down=a, up=b, bias=torch.ones(7)).fits((8, 8))
    mid = torch.ones(2, 3, 3, 3)
    assert not LowRank(down=a[:, :, None, None], up=b[:, :, None, None], mid=mid).fits((8, 8, 3, 3))


def test_numbers_that_are_not_finite_are_named(tmp_path):
    a, b = factors()
    b[0, 0] = float("nan")
    path = save(tmp_path / "x.safetensors", {f"{NAME}.lora_down.weight": a, f"{NAME}.lora_up.weight": b})
    with pytest.raises(BadInput, match="not finite"):
        read_network(path)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "a checkpoint"),
        ("emb_params", "an embedding"),
        ("down_blocks.0.resnets.0.conv1.weight", "a part of a diffusers model"),
        ("other", "holds other"),
    ],
)
def test_a_file_of_another_kind_is_called_so(key, named, tmp_path):
    path = save(tmp_path / "x.safetensors", {key: torch.ones(2, 2)})
    with pytest.raises(BadInput, match=named):
        read_network(path)
    (tmp_path / "y.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BadInput, match="neither"):
        read_network(tmp_path / "y.safetensors")


def test_hashes_are_those_of_the_librarys_own_bytes():
    """As sd-scripts takes them: of the file that safetensors writes."""
    tensors = {f"{NAME}.lora_down.weight": torch.randn(512, 700), f"{NAME}.alpha": torch.tensor(1.0)}
    tensors[f"{NAME}.lora_up.weight"] = torch.randn(700, 512).half()
    metadata = {"ss_network_dim": "512", "modelspec.title": "x", "ss_note": "ü"}
    data = safetensors.torch.save(tensors, {key: metadata[key] for key in metadata if key.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    assert hashes(tensors, metadata) == {
        "sshs_model_hash": hashlib.sha256(data[start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
    }


def test_what_is_written_says_what_it_is(tmp_path):
    a, b = factors()
    path = tmp_path / "x.safetensors"
    metadata = network_metadata("sd2", prediction="v", dim=2, alpha=1.0, args={"conv_dim": 4}, title="x")
    tensors = {f"{NAME}.lora_down.weight": a, f"{NAME}.lora_up.weight": b}
    write_network(path, tensors, metadata)
    network = read_network(path)
    assert network.family == "sd2"
    assert network.metadata["ss_base_model_version"] == "sd_v2_v"
    assert network.metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert json.loads(network.metadata["ss_network_args"]) == {"conv_dim": 4}
    assert network.metadata["sshs_model_hash"] == hashes(tensors, {})["sshs_model_hash"]


def test_a_norm_is_read(tmp_path):
    tensors = {
        f"lora_unet_conv_norm_out.{key}": tensor for key, tensor in norm(new_layer("group norm")).items()
    }
    assert read_network(save(tmp_path / "x.safetensors", tensors)).updates.keys() == {
        "lora_unet_conv_norm_out"
    }
