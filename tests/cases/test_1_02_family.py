"""Widths tell the family of a model, a network and an embedding; names confirm, contradictions are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.formats import ldm
from lib_ti.formats.checkpoint import checkpoint_family
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.checkpoints import load_components
from lib_ti.networks.files import family_of_file, read_network
from lib_ti.networks.layers import family_of
from lib_ti.networks.tools.combine import Term
from lib_ti.networks.tools.into_checkpoint import CheckpointMerge
from lib_ti.networks.tools.stored import open_checkpoint
from tests.hosts.tiny import SD2_BLOCKS, new_sd2, new_sdxl, sdxl_state, shapes_of, to_open_clip, write
from tests.networks.tools.made import lora

FILES = Path(__file__).parent / "files"
State = dict[str, torch.Tensor]


def sd2_states() -> tuple[State, State]:
    """SD2 with OpenCLIP's names, and with those that transformers gives the same text encoder."""
    unet, vae, text = new_sd2()
    state = ldm.to_ldm(unet.state_dict(), vae.state_dict(), {})
    renamed = {f"{ldm.CLIP}{key}": tensor for key, tensor in text.state_dict().items()}
    return state | to_open_clip(text, ldm.OPEN_CLIP, SD2_BLOCKS), state | renamed


def test_sd2_under_transformers_names_is_sd2(tmp_path: Path) -> None:
    state, renamed = sd2_states()
    # The block that is not used, which some files have.
    last, first = (
        f"{ldm.CLIP}text_model.encoder.layers.{SD2_BLOCKS - 1}.",
        f"{ldm.CLIP}text_model.encoder.layers.0.",
    )
    renamed |= {last + k[len(first) :]: t.clone() for k, t in renamed.items() if k.startswith(first)}
    wanted = load_components(write(tmp_path / "open.safetensors", state))
    loaded = load_components(write(tmp_path / "renamed.safetensors", renamed))
    assert loaded.family == wanted.family == "sd2"
    assert loaded.tokenizer.pad_token == wanted.tokenizer.pad_token == "!"
    tokens = torch.randint(1000, (1, 77), generator=torch.Generator().manual_seed(1))
    states = (each.text_encoder(tokens).last_hidden_state for each in (loaded, wanted))
    torch.testing.assert_close(*states)


def test_a_merge_reaches_the_text_encoder_under_either_names(tmp_path: Path) -> None:
    state, renamed = sd2_states()
    one = open_checkpoint(write(tmp_path / "open.safetensors", state))
    other = open_checkpoint(write(tmp_path / "renamed.safetensors", renamed))
    net = lora(one)
    assert one.family == other.family == "sd2"
    assert one.layers.keys() == other.layers.keys()
    merged = []
    for checkpoint in (one, other):
        merge = CheckpointMerge(checkpoint, [Term(net, 1.0)])
        merge.write(tmp_path / f"{checkpoint.file.path.stem}-new.safetensors")
        assert str(merge.applied[0]).endswith(f"applied {len(net.updates)} of {len(net.updates)} modules")
        merged.append(load_components(tmp_path / f"{checkpoint.file.path.stem}-new.safetensors").text_encoder)
    a, b = (model.state_dict() for model in merged)
    assert all(torch.allclose(a[name], b[name]) for name in a)


def shapes(context: int, text: dict[str, int], *, label: bool = False, linear: bool = False) -> dict:
    """Of a checkpoint with these widths, as far as they tell its family."""
    block = f"{ldm.UNET}input_blocks.1.1"
    found = {f"{block}.transformer_blocks.0.attn2.to_k.weight": (320, context)}
    found[f"{block}.proj_in.weight"] = (320, 320) if linear else (320, 320, 1, 1)
    for prefix, width in text.items():
        name = "ln_final" if prefix.endswith(".model.") else "text_model.final_layer_norm"
        found[f"{prefix}{name}.weight"] = (width,)
    return found | ({f"{ldm.UNET}label_emb.0.0.weight": (1280, 2816)} if label else {})


@pytest.mark.parametrize(
    ("told", "family"),
    [
        (shapes(768, {ldm.CLIP: 768}), "sd1"),
        (shapes(1024, {ldm.CLIP: 1024}, linear=True), "sd2"),
        (shapes(1024, {ldm.OPEN_CLIP: 1024}, linear=True), "sd2"),
        (shapes(2048, {ldm.CLIP_L: 768, ldm.CLIP_G: 1280}, label=True, linear=True), "sdxl"),
        (shapes(768, {ldm.CLIP: 768}, linear=True), "sd1"),  # widths before what is usual
        (shapes(768, {ldm.CLIP: 768, ldm.OPEN_CLIP: 1024}), "sd1"),  # a left-over
        (shapes(64, {ldm.CLIP: 64}), "sd1"),
        (shapes(64, {ldm.CLIP: 64}, linear=True), "sd2"),
        (shapes(768, {}), None),
    ],
)
def test_the_family_of_a_checkpoint(told: dict, family: str | None) -> None:
    assert checkpoint_family("x", told) == family


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (shapes(768, {ldm.CLIP: 1024}), r"768 wide \(SD1\); cond_stage_model\.transformer is 1024 wide"),
        (shapes(1024, {ldm.CLIP: 768}), r"1024 wide \(SD2\); cond_stage_model\.transformer is 768 wide"),
        (shapes(768, {ldm.OPEN_CLIP: 768}), r"cond_stage_model\.model is 768 wide, where 1024 is expected"),
        (shapes(2048, {ldm.CLIP_L: 1280, ldm.CLIP_G: 768}, label=True), r"1280 wide, where 768 .* 768 wide"),
        (shapes(768, {ldm.CLIP: 768}, label=True), r"768 wide \(SD1\); its U-Net is told sizes"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_contradicts_itself(told: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"^odd.safetensors is of no one family: .*{sentence}"):
        checkpoint_family("odd.safetensors", told)
    if "U-Net" not in sentence:  # which the loader calls unCLIP
        first = {
            f"{ldm.UNET}input_blocks.0.0.weight": (8, 4, 3, 3),
            f"{ldm.VAE}decoder.conv_in.weight": (8, 4, 3, 3),
        }
        save_file({n: torch.zeros(s) for n, s in {**told, **first}.items()}, tmp_path / "odd.safetensors")
        for read in (load_components, open_checkpoint):
            with pytest.raises(BadInput, match=sentence):
                read(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    ("name", "family"),
    [("ldm768", "sd1"), ("ldm768_nete", "sd1"), ("ldm1024", "sd2"), ("ldm768_meta", "sd1")],
)
def test_networks_with_the_original_names(name: str, family: str) -> None:
    path = FILES / "lora" / f"{name}.safetensors"
    network = read_network(path)
    assert network.family == family_of_file(path) == family and not network.unread
    assert all(
        layer.startswith(("lora_unet_down_", "lora_unet_up_", "lora_te_")) for layer in network.updates
    )


LDM = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn"
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"


@pytest.mark.parametrize(
    ("layers", "family"),
    [
        ({f"{LDM}1_to_q": 640}, "sdxl"),  # sd-scripts calls SDXL's layers so
        ({"lora_unet_input_blocks_1_1_proj_in": 320}, "sd1 or sd2"),  # where SDXL has no attention
        ({"lora_unet_output_blocks_11_0_emb_layers_1": 1280, f"lora_te_{TEXT}": 768}, "sd1"),
        ({f"lora_te1_{TEXT}": 768}, "sdxl"),
        ({f"{LDM}2_to_v": 768}, "sd1"),
        ({f"lora_te1_{TEXT}": 768, f"{LDM}2_to_k": 768}, "sd1"),
    ],
)  # fmt: skip
def test_other_networks(layers: dict[str, int], family: str, tmp_path: Path) -> None:
    tensors: State = {}
    for layer, width in layers.items():
        tensors |= {
            f"{layer}.lora_down.weight": torch.ones(2, width),
            f"{layer}.lora_up.weight": torch.ones(8, 2),
        }
    save_file(tensors, tmp_path / "x.safetensors")
    assert read_network(tmp_path / "x.safetensors").family == (None if " or " in family else family)


def test_the_width_of_a_kronecker_product(tmp_path: Path) -> None:
    layer = f"{LDM}2_to_k"
    for names in (("lokr_w1", "lokr_w2"), ("lokr_w1", "lokr_w2_b"), ("lokr_w1_b", "lokr_w2")):
        tensors = {
            f"{layer}.{name}": torch.ones(4, width) for name, width in zip(names, (4, 192), strict=True)
        }
        tensors |= {f"{layer}.{name[:-1]}a": torch.ones(4, 4) for name in names if name.endswith("_b")}
        save_file(tensors, tmp_path / "x.safetensors")
        assert read_network(tmp_path / "x.safetensors").family == "sd1", names


@pytest.mark.parametrize(
    ("layers", "metadata", "told"),
    [
        ({f"{LDM}2_to_k": 768}, {"ss_base_model_version": "sdxl"}, r"wide \(SD1\); its metadata say .*sdxl"),
        ({f"{LDM}2_to_k": 2048}, {"ss_v2": "True"}, r"2048 wide \(SDXL\); its metadata say ss_v2 \(SD2\)"),
        ({f"{LDM}2_to_k": 768, f"lora_te_{TEXT}": 1024}, {}, r"is 1024 wide \(SD2\); its .* 768 wide"),
        ({f"lora_te2_{TEXT}": 768}, {}, "its second text encoder is 768 wide, where 1280 is expected"),
    ],
)  # fmt: skip
def test_a_network_that_contradicts_itself(layers: dict, metadata: dict, told: str, tmp_path: Path) -> None:
    tensors: State = {}
    for layer, width in layers.items():
        tensors |= {
            f"{layer}.lora_down.weight": torch.ones(2, width),
            f"{layer}.lora_up.weight": torch.ones(8, 2),
        }
    save_file(tensors, tmp_path / "odd.safetensors", metadata or None)
    for read in (read_network, family_of_file):
        with pytest.raises(BadInput, match=f"^odd.safetensors is of no one family: .*{told}"):
            read(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sdxl_swapped_names", "clip_l is 1280 wide, where 768 is expected; clip_g is 768 wide, where 1280"),
        ("sdxl_g_only", r"has vectors for clip_g \(1280 wide\); expected clip_l of 768 \(SD1\)"),
    ],
)  # fmt: skip
def test_embeddings_of_other_widths_than_their_names_say(name: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        read_embedding(FILES / "embedding" / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"clip_l": 768}, "sd1"),
        ({"clip_l": 1024}, "sd2"),  # the WebUI calls SD2's encoder so
        ({"clip_h": 1024}, "sd2"),
        ({"emb_params": 1024}, "sd2"),
        ({"clip_l": 64}, "sd1"),
        ({"clip_l": 64, "clip_g": 128}, "sdxl"),
        ({"clip_h": 768}, "clip_h is 768 wide, where 1024 is expected"),
        ({"clip_g": 768}, r"clip_g \(768 wide\)"),
        ({"clip_l": 1280}, "clip_l is 1280 wide, where 768 is expected"),
        ({"clip_l": 768, "clip_g": 1024}, "clip_g is 1024 wide, where 1280 is expected"),
        ({"emb_params": 1280}, r"clip_g \(1280 wide\)"),
    ],
)
def test_other_embeddings(tensors: dict[str, int], found: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.ones(2, width) for name, width in tensors.items()}, path)
    if found.startswith("sd"):
        assert read_embedding(path).family == found
    else:
        with pytest.raises(BadInput, match=found):
            read_embedding(path)


class Wide(nn.Module):
    """What tells the family in a living text encoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.final_layer_norm = nn.LayerNorm(width)


def test_the_family_of_living_parts() -> None:
    unet, *texts = (new_sdxl()[i] for i in (0, 2, 3))
    assert family_of({"unet": unet, "te1": texts[0], "te2": texts[1]}) == "sdxl"
    assert family_of({"te": Wide(1024)}) == "sd2" and family_of({"te": Wide(768)}) == "sd1"
    with pytest.raises(BadInput, match="its text encoder te is 1280 wide, where 768 or 1024 is expected"):
        family_of({"te": Wide(1280)})
    with pytest.raises(BadInput, match=r"te1 is 1024 wide \(SD2\); it has a text encoder te1 \(SDXL\)"):
        family_of({"te1": Wide(1024)})


def test_the_built_in_checkpoints_shapes_are_still_told() -> None:
    state = sdxl_state(new_sdxl())
    assert checkpoint_family("x", shapes_of(state)) == "sdxl"
    assert load_file(FILES / "lora" / "ldm1024.safetensors")
