"""Weights that are not plain: scaled float8 is read, merged into, written and subtracted as the numbers that
it stands for; packed integers are refused by name, wherever weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.formats.quantised import open_weights
from lib_ti.hosts.a1111_model import refuse_quantised
from lib_ti.hosts.checkpoints import load_components
from lib_ti.networks.algebra import Full, LowRank
from lib_ti.networks.files import Network, read_network
from lib_ti.networks.tools.combine import Term
from lib_ti.networks.tools.extract import Extraction, extract
from lib_ti.networks.tools.into_checkpoint import CheckpointMerge
from lib_ti.networks.tools.saving import save_network
from lib_ti.networks.tools.stored import open_checkpoint
from tests.networks.tools.made import BUILTIN, builtin, delta, lora

State = dict[str, torch.Tensor]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LINEAR = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


def is_scaled(name: str, tensor: torch.Tensor) -> bool:
    """As ComfyUI's converters choose: linear layers of the U-Net and the text encoder."""
    inside = name.startswith(("model.diffusion_model.", "cond_stage_model.")) and "embed" not in name
    return inside and tensor.ndim == 2 and name.endswith(".weight")


def scaled(spelling: str, dtype: torch.dtype = E4M3, *, rows: bool = False) -> tuple[State, State]:
    """The built-in model as a scaled file's tensors, and as the numbers that these stand for."""
    stored: State = {}
    plain: State = {}
    for name, tensor in load_file(BUILTIN).items():
        stored[name] = plain[name] = tensor
        if not is_scaled(name, tensor):
            continue
        weight = tensor.float()
        largest = weight.abs().amax(dim=1, keepdim=True) if rows else weight.abs().max()
        scale = largest / torch.finfo(dtype).max
        stored[name] = (weight / scale).to(dtype)
        stored[f"{name.removesuffix('.weight')}.{spelling}"] = scale
        plain[name] = stored[name].float() * scale
    return stored, plain


def write(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)
    shutil.copyfile(BUILTIN.with_suffix(".yaml"), path.with_suffix(".yaml"))
    return path


SPELLINGS = [
    ("scale_weight", E4M3, False),
    ("scale_weight", E5M2, False),
    ("weight_scale", E4M3, True),
    ("weight_scale_inv", E4M3, False),
]


@pytest.mark.parametrize(("spelling", "dtype", "rows"), SPELLINGS)
def test_the_loader_applies_the_scales(spelling: str, dtype: torch.dtype, rows: bool, tmp_path: Path) -> None:
    stored, plain = scaled(spelling, dtype, rows=rows)
    marks = {
        "model.diffusion_model.scaled_fp8": torch.zeros(2, dtype=dtype),
        "model.diffusion_model.out.2.scale_input": torch.ones(()) * 7,
        "model.diffusion_model.out.2.comfy_quant": torch.zeros(5, dtype=torch.uint8),
    }
    original = load_components("builtin")
    loaded = load_components(write(tmp_path / "scaled.safetensors", stored | marks))
    wanted = load_components(write(tmp_path / "plain.safetensors", {k: v.float() for k, v in plain.items()}))
    for ours, theirs, first in zip(
        (loaded.unet, loaded.text_encoder), (wanted.unet, wanted.text_encoder),
        (original.unet, original.text_encoder), strict=True,
    ):  # fmt: skip
        state, exact, before = ours.state_dict(), theirs.state_dict(), first.state_dict()
        assert all(torch.equal(tensor, exact[name]) for name, tensor in state.items())
        off = max(float((t - before[n]).abs().max() / before[n].abs().max()) for n, t in state.items())
        assert 0 < off < 0.2  # rounded, not a thousand times as large


def test_bare_float8_is_read_as_it_is(tmp_path: Path) -> None:
    state = {name: t.to(E4M3) if is_scaled(name, t) else t for name, t in load_file(BUILTIN).items()}
    loaded = load_components(write(tmp_path / "bare.safetensors", state), torch.float16)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    weight = loaded.unet.state_dict()[name]
    original = load_components("builtin", torch.float16).unet.state_dict()[name]
    assert torch.equal(weight, original.float().to(E4M3).float().half())


@pytest.mark.parametrize("save", ["as read", "fp16"])
def test_a_merge_into_a_scaled_checkpoint(save: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stored, plain = scaled("scale_weight")
    mark, said = "model.diffusion_model.scaled_fp8", {"_quantization_metadata": "{}", "modelspec.author": "x"}
    path = write(tmp_path / "scaled.safetensors", {**stored, mark: torch.zeros(2, dtype=E4M3)}, said)
    net = lora(builtin())
    save_network(tmp_path / "net.safetensors", net.updates, None, {"ss_base_model_version": "sd_v1"})
    words = [str(path), str(tmp_path / "net.safetensors"), str(tmp_path / "new.safetensors")]
    assert main(["lora", "merge-into-checkpoint", *words, "--save-precision", save, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    new = load_file(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        metadata = file.metadata()
    kept = save == "as read"
    assert new.keys() == ({*stored, mark} if kept else plain.keys())
    assert ("_quantization_metadata" in metadata) == kept and metadata["modelspec.author"] == "x"
    assert told["networks"]["net"]["applied"] == len(net.updates)
    assert [note for note in told["notes"] if "rounding to float8_e4m3fn" in note] == told["notes"]
    assert bool(told["notes"]) == kept
    read, source = open_weights(tmp_path / "new.safetensors"), builtin()
    layers = {layer.key: name for name, layer in source.layers.items() if name in net.updates}
    for name, tensor in plain.items():
        wanted = tensor.float()
        if name not in layers:
            assert torch.equal(read.read(name).float(), wanted if kept else wanted.half().float()), name
            continue
        wanted = wanted + delta(net, layers[name], source.shape(source.layers[layers[name]]))
        least = torch.finfo(E4M3).smallest_normal * float(
            new.get(name[:-6] + "scale_weight", torch.zeros(()))
        )
        step = 2**-4 if kept and is_scaled(name, tensor) else 2**-11
        assert ((read.read(name).float() - wanted).abs() <= step * wanted.abs().clamp_min(least) + 1e-6).all()
        if kept and is_scaled(name, tensor):
            assert new[name].dtype == E4M3


def test_writing_a_scaled_file_again_changes_only_what_is_merged(tmp_path: Path) -> None:
    """Round trip: bits and scales of the other layers stay; a scale grows only where a number needs it."""
    stored, plain = scaled("weight_scale", rows=True)
    path, again = write(tmp_path / "scaled.safetensors", stored), tmp_path / "again.safetensors"
    layer = open_checkpoint(path).layers[LINEAR]
    scale = f"{layer.key.removesuffix('.weight')}.weight_scale"
    diff = torch.zeros_like(plain[layer.key])
    diff[0] = plain[layer.key][0]  # twice as large
    diff[1] = -plain[layer.key][1] / 2
    CheckpointMerge(open_checkpoint(path), [Term(Network("n", "sd1", {LINEAR: Full(diff=diff)}), 1.0)]).write(
        again
    )
    new = load_file(again)
    assert new.keys() == stored.keys()
    for name, tensor in stored.items():
        if name not in (layer.key, scale):
            assert torch.equal(new[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), name
    assert torch.allclose(new[scale][0], 2 * stored[scale][0]) and torch.equal(
        new[scale][1:], stored[scale][1:]
    )
    assert torch.equal(new[layer.key].float()[2:], stored[layer.key].float()[2:])
    assert torch.allclose(open_weights(again).read(layer.key), plain[layer.key] + diff, rtol=1e-6)
    taken = CheckpointMerge(
        open_checkpoint(again), [Term(Network("n", "sd1", {LINEAR: Full(diff=diff)}), -1.0)]
    )
    taken.write(tmp_path / "back.safetensors")
    back = open_weights(tmp_path / "back.safetensors").read(layer.key)
    assert torch.allclose(back, plain[layer.key], rtol=1e-5)


def test_what_the_rounding_leaves_nothing_of_is_not_applied(tmp_path: Path) -> None:
    state = {name: t.to(E4M3) if is_scaled(name, t) else t for name, t in load_file(BUILTIN).items()}
    checkpoint = open_checkpoint(write(tmp_path / "bare.safetensors", state))
    net = lora(checkpoint, conv=False)
    tiny = {name: LowRank(up=u.up * 1e-5, down=u.down, alpha=u.alpha) for name, u in net.updates.items()}
    nothing = dict(list(tiny.items())[:1])
    tiny |= {name: LowRank(up=torch.zeros_like(u.up), down=u.down) for name, u in nothing.items()}
    # Twice, under one name; the second is strong in a single layer.
    strong = {**tiny, LINEAR: net.updates[LINEAR]}
    merge = CheckpointMerge(checkpoint, [Term(Network("weak", "sd1", tiny), 1.0)])
    merge.write(tmp_path / "new.safetensors")
    (weak,) = merge.applied
    assert {"adds nothing", "lost in the rounding to float8_e4m3fn"} <= {*weak.left_out.values()}
    assert len(weak.left_out) > len(tiny) / 2
    assert str(weak).startswith(
        f"weak: applied {len(tiny) - len(weak.left_out)} of {len(tiny)} modules; left out:"
    )
    assert merge.rounding.lost > 0.9 and "float8_e4m3fn lost" in merge.rounding.note()
    again = CheckpointMerge(
        checkpoint, [Term(Network("n", "sd1", tiny), 1.0), Term(Network("n", "sd1", strong), 1.0)]
    )
    again.write(tmp_path / "again.safetensors")
    # What the two do to a layer cannot be told apart.
    assert all(LINEAR not in applied.left_out for applied in again.applied)
    assert LINEAR in weak.left_out and {*again.applied[1].left_out} <= {*weak.left_out} - {LINEAR}


def test_extraction_takes_the_difference_of_the_scaled_numbers(tmp_path: Path) -> None:
    stored, plain = scaled("scale_weight")
    path = write(tmp_path / "scaled.safetensors", stored)
    source = open_checkpoint(path)
    net = lora(source, 4, 2.0)
    before = write(tmp_path / "plain.safetensors", {name: t.float() for name, t in plain.items()})
    CheckpointMerge(open_checkpoint(before), [Term(net, 1.0)]).write(tmp_path / "tuned.safetensors")
    found = extract(source, open_checkpoint(tmp_path / "tuned.safetensors"), Extraction(4, 4))
    for name, update in found.updates.items():
        shape = source.shape(source.layers[name])
        assert update.fits(shape)
        assert (delta(found.updates, name, shape) - delta(net, name, shape)).abs().max() < 1e-5


def test_extraction_says_that_rounding_is_in_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write(tmp_path / "scaled.safetensors", scaled("scale_weight")[0])
    words = ["lora", "extract", str(BUILTIN), str(path), str(tmp_path / "net.safetensors"), "--json"]
    assert main(words) == 0
    note, *_ = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("scaled.safetensors keeps ") and "float8" in note


BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"


def packed(kind: str) -> State:
    """Other layouts, by the names that public writers give them."""
    state = load_file(BUILTIN)
    eight = torch.zeros(8, 8, dtype=torch.uint8)
    name = next(name for name in state if is_scaled(name, state[name]))
    start = name.removesuffix(".weight")
    more: dict[str, State] = {
        "weights in int8": {name: torch.zeros(state[name].shape, dtype=torch.int8)},
        "weights in uint8": {name: eight},
        "4-bit weights of bitsandbytes": {
            f"{name}.absmax": torch.ones(4),
            f"{name}.quant_map": torch.ones(16),
            f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
        },
        "8-bit weights of bitsandbytes": {
            f"{start}.SCB": torch.ones(8),
            f"{start}.weight_format": eight[0, 0],
        },
        "packed weights of GPTQ": {f"{start}.qweight": eight.int(), f"{start}.qzeros": eight.int()},
        "4-bit weights \\(NVFP4\\)": {name: eight, f"{start}.weight_scale_2": torch.ones(())},
        "packed weights of compressed-tensors": {f"{start}.weight_packed": eight.int()},
        "packed weights of quanto": {f"{name}._data": eight.view(torch.int8)},
    }
    return {**state, **more[kind]}


@pytest.mark.parametrize(
    "kind",
    [
        "weights in int8",
        "weights in uint8",
        "4-bit weights of bitsandbytes",
        "8-bit weights of bitsandbytes",
        "packed weights of GPTQ",
        "4-bit weights \\(NVFP4\\)",
        "packed weights of compressed-tensors",
        "packed weights of quanto",
    ],
)
def test_packed_weights_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "packed.safetensors", packed(kind))
    torch.save({"state_dict": packed(kind)}, tmp_path / "packed.ckpt")
    for file in (path, tmp_path / "packed.ckpt"):
        for read in (load_components, open_checkpoint):  # merging and extracting open with the latter
            with pytest.raises(BadInput, match=rf"{file.name} holds {kind}.*, such as .*expected weights in"):
                read(file)


def test_the_webui_adapter_refuses_what_the_webui_would_take_for_weights(tmp_path: Path) -> None:
    path = write(tmp_path / "scaled.safetensors", scaled("scale_weight")[0])
    with pytest.raises(BadInput, match=r"scaled weights \(.*, whose scales the WebUI does not apply"):
        refuse_quantised(path)
    with pytest.raises(BadInput, match="holds 4-bit weights of bitsandbytes"):
        refuse_quantised(write(tmp_path / "nf4.safetensors", packed("4-bit weights of bitsandbytes")))
    refuse_quantised(BUILTIN)


def test_a_packed_network_is_refused_by_name(tmp_path: Path) -> None:
    down, up = f"{LINEAR}.lora_down.weight", f"{LINEAR}.lora_up.weight"
    tensors = {down: torch.zeros(2, 8, dtype=torch.int8), up: torch.zeros(8, 2)}
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(BadInput, match=r"net\.safetensors holds weights in int8, such as lora_unet"):
        read_network(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("name", "scale", "told"),
    [
        (f"{BLOCK}.scale_weight", torch.ones(3), r"\(3,\); expected one floating point number"),
        (f"{BLOCK}.weight_scale_inv", torch.ones(2, 2), r"\(2, 2\); expected one floating point number"),
        (f"{BLOCK}.scale_weight", torch.tensor(float("nan")), "is not finite, or below 0"),
        (f"{BLOCK}.scale_weight", torch.tensor(-1.0), "is not finite, or below 0"),
        ("model.diffusion_model.nowhere.scale_weight", torch.ones(()), "no weight that it belongs to"),
        (f"{BLOCK}.weight_scale", torch.zeros(1, dtype=torch.uint8), r"torch\.uint8 of the shape"),
    ],
)
def test_scales_that_cannot_be_read(name: str, scale: torch.Tensor, told: str, tmp_path: Path) -> None:
    state = load_file(BUILTIN)
    assert f"{BLOCK}.weight" in state or "nowhere" in name
    state[f"{BLOCK}.weight"] = state[f"{BLOCK}.weight"].to(E4M3)
    with pytest.raises(BadInput, match=told):
        load_components(write(tmp_path / "odd.safetensors", {**state, name: scale}))


def save_folder(folder: Path) -> Any:
    """The built-in model as a diffusers folder."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    parts = load_components("builtin")
    StableDiffusionPipeline(
        unet=parts.unet, vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer,
        scheduler=PNDMScheduler(), safety_checker=None, feature_extractor=None,
    ).save_pretrained(folder)  # fmt: skip


def test_diffusers_folders_of_quantised_weights_are_refused_by_name(tmp_path: Path) -> None:
    save_folder(tmp_path)
    weights, described = tmp_path / "unet/diffusion_pytorch_model.safetensors", tmp_path / "unet/config.json"
    state, config = load_file(weights), described.read_text(encoding="utf-8")
    name = next(name for name, tensor in state.items() if tensor.ndim == 2)
    for more, told in (
        ({f"{name.removesuffix('.weight')}.weight_scale": torch.ones(())}, "holds scaled weights"),
        ({f"{name}.absmax": torch.ones(())}, "holds 4-bit weights of bitsandbytes"),
        ({name: torch.zeros(state[name].shape, dtype=torch.int8)}, "holds weights in int8"),
    ):
        save_file({**state, **more}, weights)
        with pytest.raises(BadInput, match=told):
            load_components(tmp_path)
    save_file(state, weights)
    for quantised, told in (("unet", "bitsandbytes"), ("text_encoder", "gptq")):
        described = tmp_path / quantised / "config.json"
        config = described.read_text(encoding="utf-8")
        more = {**json.loads(config), "quantization_config": {"quant_method": told}}
        described.write_text(json.dumps(more), encoding="utf-8")
        with pytest.raises(BadInput, match=rf"its {quantised} is quantised by {told}"):
            load_components(tmp_path)
        described.write_text(config, encoding="utf-8")
    assert load_components(tmp_path).family == "sd1"
