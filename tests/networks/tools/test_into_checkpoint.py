from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_ti.core.errors import BadInput
from lib_ti.formats import ldm
from lib_ti.formats.streaming import HASH
from lib_ti.networks.algebra import IA3, DoRA, Full, LoHa, LoKr, Product, Update
from lib_ti.networks.files import Network
from lib_ti.networks.tools.combine import Term
from lib_ti.networks.tools.into_checkpoint import CheckpointMerge
from lib_ti.networks.tools.stored import Checkpoint, open_checkpoint
from tests.networks.tools.made import BUILTIN, builtin, in_float, lora, lora_for, randn

LINEAR = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32, with metadata, a noise schedule, an average of a weight and a tensor of integers."""
    folder = tmp_path_factory.mktemp("base")
    tensors = load_file(in_float(folder))
    unet = next(iter(open_checkpoint(BUILTIN).layers.values())).key
    tensors |= {"betas": torch.linspace(0, 1, 5, dtype=torch.float64), "model_ema.decay": torch.tensor(1)}
    tensors[f"model_ema.{unet.replace('.', '')}"] = tensors[unet].clone()
    path = folder / "base.safetensors"
    save_file(tensors, path, {"modelspec.author": "somebody", HASH: "0xold"})
    return path


def every_algorithm(checkpoint: Checkpoint) -> Network:
    """One update of each kind, on layers of their own."""
    names = [name for name, layer in checkpoint.layers.items() if layer.part == "unet"]
    linear = [name for name in names if checkpoint.layers[name].kind == "linear"]
    out, wide = checkpoint.shape(checkpoint.layers[linear[0]])
    conv = next(name for name in names if checkpoint.layers[name].kind == "conv")
    norm = next(name for name in names if checkpoint.layers[name].kind == "norm")
    product = Product(a=randn(out, 2, seed=1), b=randn(2, wide, seed=2))
    squares = {name: checkpoint.shape(checkpoint.layers[name]) for name in linear[1:5]}
    lokr, ia3, dora, rest = squares
    (a, b), (_, d), (e, _) = squares[lokr], squares[ia3], squares[dora]
    updates: dict[str, Update] = {
        linear[0]: LoHa(first=product, second=product, alpha=1.0),
        lokr: LoKr(first=Product(a=randn(2, 2, seed=3)), second=Product(a=randn(a // 2, b // 2, seed=4))),
        ia3: IA3(factor=randn(d, seed=5) * 0.1, on_input=True),
        dora: DoRA(
            direction=lora_for(checkpoint, checkpoint.layers[dora], 2, 1.0, 6),
            magnitude=randn(e, 1, seed=7).abs(),
        ),
        rest: Full(diff=randn(*squares[rest], seed=8)),
        conv: lora_for(checkpoint, checkpoint.layers[conv], 2, 1.0, 9),
        norm: Full(
            diff=randn(*checkpoint.shape(checkpoint.layers[norm]), seed=10),
            bias=randn(*checkpoint.shape(checkpoint.layers[norm]), seed=11),
        ),
    }
    return Network("every", checkpoint.family, updates)


def test_every_algorithm_is_added_and_nothing_else_changes(base: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(base)
    first, second = every_algorithm(checkpoint), lora(checkpoint, seed=7, name="second")
    merge = CheckpointMerge(checkpoint, [Term(second, -0.5), Term(first, 0.7)])
    path = tmp_path / "new.safetensors"
    merge.write(path)
    assert [str(applied) for applied in merge.applied] == [
        f"second: applied {len(second.updates)} of {len(second.updates)} modules",
        "every: applied 7 of 7 modules",
    ]
    before, after = load_file(base), load_file(path)
    assert before.keys() == after.keys()
    changed: dict[str, torch.Tensor] = {name: tensor.clone() for name, tensor in before.items()}
    for network, ratio in ((second, -0.5), (first, 0.7)):
        for name, update in network.updates.items():
            layer = checkpoint.layers[name]
            changed[layer.key] += ratio * update.delta(before[layer.key])  # of the original weight
            if update.bias is not None:
                changed[layer.bias_key] += ratio * update.bias
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        if torch.equal(changed[name], before[name]):
            assert torch.equal(tensor, before[name]), name
        else:
            assert torch.allclose(tensor, changed[name], rtol=1e-5, atol=1e-6), name
            assert not torch.equal(tensor, before[name])


def test_metadata_says_what_was_merged_and_the_hash_is_new(base: Path, tmp_path: Path) -> None:
    checkpoint, path = open_checkpoint(base), tmp_path / "new.safetensors"
    CheckpointMerge(checkpoint, [Term(lora(checkpoint), 0.8)]).write(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    data = path.read_bytes()
    tensors = data[8 + int.from_bytes(data[:8], "little") :]
    assert metadata[HASH] == f"0x{hashlib.sha256(tensors).hexdigest()}"
    assert metadata["modelspec.author"] == "somebody"
    assert metadata["modelspec.merged_from"] == "base, net"
    assert json.loads(metadata["ti_studio.merged"]) == [{"network": "net", "ratio": 0.8}]


def test_the_precision_of_the_file_is_not_that_of_the_computation(tmp_path: Path) -> None:
    """Many small changes that half precision would each round away."""
    checkpoint = builtin()  # float16
    net = lora(checkpoint, name="small")
    layer = checkpoint.layers[LINEAR]
    weight = checkpoint.file.read(layer.key).float()
    terms = [Term(Network(f"n{i}", "sd1", {LINEAR: net.updates[LINEAR]}), 1e-4) for i in range(40)]
    wanted = weight + 40 * 1e-4 * net.updates[LINEAR].delta(weight)
    for save in (None, torch.float32, torch.bfloat16):
        path = tmp_path / f"{save}.safetensors"
        CheckpointMerge(checkpoint, terms, save).write(path)
        after = load_file(path)
        dtype = save or torch.float16
        rounding = torch.finfo(dtype).eps / 2 * wanted.abs()
        assert ((after[layer.key].float() - wanted).abs() <= rounding + 1e-6).all()
        assert {t.dtype for name, t in after.items() if t.is_floating_point()} == {dtype}


def test_the_noise_schedule_keeps_its_precision(base: Path, tmp_path: Path) -> None:
    checkpoint, path = open_checkpoint(base), tmp_path / "half.safetensors"
    CheckpointMerge(checkpoint, [Term(lora(checkpoint), 1.0)], torch.float16).write(path)
    after = load_file(path)
    assert torch.equal(after["betas"], load_file(base)["betas"])
    assert after["model_ema.decay"].dtype == torch.int64
    assert after[checkpoint.layers[LINEAR].key].dtype == torch.float16


def test_ckpt_in_and_out(base: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": load_file(base), "global_step": 1}, tmp_path / "base.ckpt")
    plain, pickled = open_checkpoint(base), open_checkpoint(tmp_path / "base.ckpt")
    net = lora(plain)
    CheckpointMerge(plain, [Term(net, 1.0)]).write(tmp_path / "a.safetensors")
    CheckpointMerge(pickled, [Term(net, 1.0)]).write(tmp_path / "b.ckpt")
    a, b = load_file(tmp_path / "a.safetensors"), torch.load(tmp_path / "b.ckpt", weights_only=True)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_fused_projections_of_open_clip(tmp_path: Path) -> None:
    """SD2 and SDXL: query, key and value are thirds of one weight."""
    pytest.importorskip("diffusers")
    from tests.hosts.tiny import SD2_BLOCKS, new_sd2, new_sdxl, sdxl_state, to_open_clip

    unet, vae, text = new_sd2()
    state = ldm.to_ldm(unet.state_dict(), vae.state_dict(), {})
    states = {"sd2": state | to_open_clip(text, ldm.OPEN_CLIP, SD2_BLOCKS), "sdxl": sdxl_state(new_sdxl())}
    for family, tensors in states.items():
        path = tmp_path / f"{family}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        checkpoint = open_checkpoint(path)
        assert checkpoint.family == family
        net = lora(checkpoint)
        CheckpointMerge(checkpoint, [Term(net, 1.0)]).write(tmp_path / "new.safetensors")
        before, after = load_file(path), load_file(tmp_path / "new.safetensors")
        fused = 0
        for name, update in net.updates.items():
            layer = checkpoint.layers[name]
            rows = layer.rows or slice(None)
            wanted = before[layer.key][rows] + update.delta(before[layer.key][rows])
            assert torch.allclose(after[layer.key][rows], wanted, atol=1e-6)
            fused += layer.rows is not None
        assert fused == 3 * {"sd2": SD2_BLOCKS - 1, "sdxl": 3}[family]


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    checkpoint = builtin()
    net = lora(checkpoint)
    odd = {"lora_unet_nowhere": net.updates[LINEAR], LINEAR: Full(diff=torch.zeros(3, 3))}
    merge = CheckpointMerge(checkpoint, [Term(Network("net", "sd1", {**net.updates, **odd}), 1.0)])
    total = len(net.updates) + 1
    told = str(merge.applied[0])
    assert told.startswith(f"net: applied {total - 2} of {total} modules; left out: {LINEAR} (does not fit (")
    assert "lora_unet_nowhere (the checkpoint has no such layer)" in told
    with pytest.raises(BadInput, match="nothing of net fits tinyworld"):
        CheckpointMerge(checkpoint, [Term(Network("net", "sd1", odd), 1.0)])
    huge = {LINEAR: Full(diff=torch.full(checkpoint.shape(checkpoint.layers[LINEAR]), 1e5))}
    path = tmp_path / "new.safetensors"
    with pytest.raises(BadInput, match=r"does not stay finite in torch\.float16"):
        CheckpointMerge(checkpoint, [Term(Network("net", "sd1", huge), 1.0)]).write(path)
    assert not list(tmp_path.iterdir())


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(BadInput, match="no checkpoint of SD 1"):
        open_checkpoint(path)
