from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.networks import attach
from lib_ti.networks.algebra import IA3, Full, LowRank
from lib_ti.networks.files import Network, tensors_of, write_network
from lib_ti.networks.layers import find_layers, trained_layers
from tests.hosts.tiny import new_sd2
from tests.networks.random_networks import random_network, random_updates


@pytest.fixture(scope="module")
def layers(host):
    return find_layers(host.parts(), "sd1")


@pytest.fixture(scope="module")
def network(layers):
    """C3Lier on every layer that it trains."""
    return random_network(trained_layers(layers, conv=True))


def state_of(host) -> dict[str, bytes]:
    return {
        f"{part}.{key}": tensor.numpy().tobytes()
        for part, model in host.parts().items()
        for key, tensor in model.state_dict().items()
    }


@torch.no_grad()
def answer(host, samples: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    condition = host.encode_prompts(["a red circle", "a photo"][:samples])
    latents = torch.randn(samples, 4, 8, 8, generator=generator)
    return host.predict_noise(latents, torch.tensor([500] * samples), condition)


@pytest.fixture
def unchanged(host):
    """The host is again as it was after the test, and answers so."""
    before, first = state_of(host), answer(host)
    yield first
    assert state_of(host) == before
    assert torch.equal(answer(host), first)
    assert not any(module._forward_hooks for part in host.parts().values() for module in part.modules())


def test_added_and_merged_are_one(host, network, unchanged):
    attached = attach(host, network, 0.7)
    assert attached.report == "applied 302 of 302 modules (linear 206, conv 96), rank 4, alpha 2"
    added = answer(host)
    attached.merge()
    merged = answer(host)
    torch.testing.assert_close(added, merged, atol=1e-4, rtol=1e-4)
    assert (added - unchanged).abs().max() > 0.05
    attached.unmerge()
    assert torch.equal(answer(host), added)
    attached.remove()
    attached.remove()


def test_the_multiplier_can_change(host, network, unchanged):
    attached = attach(host, network)
    full = answer(host)
    attached.set_multiplier(0)
    assert torch.equal(answer(host), unchanged)
    attached.set_multiplier({"unet": 1.0})
    unet_only = answer(host)
    attached.set_multiplier({"te": 1.0})
    text_only = answer(host)
    attached.merge()
    torch.testing.assert_close(answer(host), text_only, atol=1e-4, rtol=1e-4)
    attached.set_multiplier(1)
    torch.testing.assert_close(answer(host), full, atol=1e-4, rtol=1e-4)
    assert len({float(x.sum()) for x in (full, unet_only, text_only, unchanged)}) == 4
    with pytest.raises(BadInput, match="te2"):
        attached.set_multiplier({"te2": 1.0})
    attached.remove()


def test_each_sample_can_have_its_own(host, network, unchanged):
    """As a network does that is to act on the unconditional half of a batch alone."""
    with attach(host, network, {"unet": 1.0}) as attached:
        full = answer(host)
        attached.strength.parts["unet"] = torch.tensor([0.0, 1.0])
        mixed = answer(host)
    torch.testing.assert_close(mixed[0], unchanged[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[1], full[1], atol=1e-5, rtol=1e-5)


def test_one_for_each_sample_cannot_be_merged_and_leaves_nothing(host, network, unchanged):
    each = {"unet": torch.tensor([0.0, 1.0])}
    with pytest.raises(ValueError, match="one for all samples"):
        attach(host, network, each, merged=True)
    with attach(host, network, merged=True) as attached:  # nothing of the first is in the way
        full = answer(host)
        with pytest.raises(ValueError, match="one for all samples"):
            attached.set_multiplier(each)
        assert torch.equal(answer(host), full)
    assert torch.equal(answer(host), unchanged)


def test_a_network_given_twice_does_not_double(host, network, unchanged, tmp_path):
    path = tmp_path / "x.safetensors"
    write_network(path, tensors_of(network.updates), {})
    with attach(host, path, 0.5):
        once = answer(host)
        with attach(host, str(path), 0.5) as again:
            assert torch.equal(answer(host), once)
            again.merge()
            torch.testing.assert_close(answer(host), once, atol=1e-4, rtol=1e-4)


def test_several_at_once_in_any_order(host, layers, network, unchanged):
    """Also of algorithms that look at the weight: each sees the original."""
    names = [name for name in network.updates if "resnets" in name]
    factors = {
        name: IA3(factor=torch.full((layers[name].weight.shape[0],), 0.1), on_input=False) for name in names
    }
    other = Network("other", None, factors)
    answers = []
    for first, second in ((network, other), (other, network)):
        for merged in ((False, False), (True, False), (True, True)):
            one, two = attach(host, first, merged=merged[0]), attach(host, second, merged=merged[1])
            answers.append(answer(host))
            one.remove()
            alone = answer(host)
            two.remove()
            with attach(host, second):
                torch.testing.assert_close(answer(host), alone, atol=1e-4, rtol=1e-4)
    for each in answers[1:]:
        torch.testing.assert_close(each, answers[0], atol=2e-4, rtol=1e-3)


def test_block_weights(host, network, unchanged):
    """A block's weight scales what the network does there, and nothing else."""
    only = [0.0] * 25
    only[12] = 0.5
    inside = {name: update for name, update in network.updates.items() if "mid_block" in name}
    with attach(host, network, {"unet": 1.0}, blocks=only):
        weighted = answer(host)
    with attach(host, Network("mid", None, inside), 0.5):
        assert torch.equal(answer(host), weighted)


def test_a_dylora_at_a_rank_is_the_extracted_file(host, network, unchanged):
    extracted = {
        name: LowRank(down=update.down[:2].clone(), up=update.up[:, :2].clone(), alpha=update.alpha)
        for name, update in network.updates.items()
    }
    with attach(host, network, rank=2):
        truncated = answer(host)
    with attach(host, Network("extracted", None, extracted)):
        assert torch.equal(answer(host), truncated)
    with pytest.raises(BadInput, match="at least 1"):
        attach(host, network, rank=0)


def test_norms_and_the_first_layers_too(host, layers, unchanged):
    updates = {
        name: Full(
            diff=torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)) * 0.02,
            bias=torch.full((len(layer.weight),), 0.01),
        )
        for name, layer in layers.items()
    }
    # Those of the built-in model without a bias, which merging has to give them.
    assert any(layer.bias is None for layer in layers.values())
    with attach(host, Network("full", None, updates)) as attached:
        assert attached.report.startswith(f"applied {len(layers)} of {len(layers)} modules")
        added = answer(host)
        attached.merge()
        torch.testing.assert_close(answer(host), added, atol=2e-4, rtol=1e-3)


def test_in_mixed_precision(host, layers, unchanged):
    """Where autocast chooses the types, as a WebUI lets it."""
    updates = random_updates(trained_layers(layers, conv=True))
    norms = [layer for layer in layers.values() if layer.kind == "norm"]
    updates |= {layer.name: Full(diff=torch.full_like(layer.weight, 0.02)) for layer in norms}
    with attach(host, Network("all", None, updates)):
        exact = answer(host)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = answer(host)
    assert 0 < (rounded - exact).abs().max() < 0.1 * exact.abs().max()


def test_what_was_prepared_while_drawing_serves_a_training(host, layers):
    base = random_network(trained_layers(layers, conv=False))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with host.lend(), attach(host, base):
        with torch.inference_mode():
            host.predict_noise(latents, torch.tensor([500]), host.encode_prompts(["a red circle"]))
        latents.requires_grad_()
        condition = host.encode_prompts(["a red circle"])
        host.predict_noise(latents, torch.tensor([500]), condition).square().mean().backward()
    assert latents.grad.abs().sum() > 0


def test_gradient_passes_through_and_reaches_live_factors(host, layers):
    updates = random_updates(trained_layers(layers, conv=True), seed=3)
    live = {
        name: LowRank(down=nn.Parameter(update.down), up=nn.Parameter(update.up), alpha=update.alpha)
        for name, update in updates.items()
    }
    base = random_network(trained_layers(layers, conv=False), seed=2)
    with host.lend(), attach(host, base, 0.5), attach(host, Network("live", None, live)):
        condition = host.encode_prompts(["a red circle"])
        host.predict_noise(torch.randn(1, 4, 8, 8), torch.tensor([500]), condition).square().mean().backward()
    for update in live.values():
        assert update.down.grad.abs().sum() > 0 and update.up.grad.abs().sum() > 0


def test_what_does_not_fit_is_named(host, network, layers, caplog):
    name, *_ = network.updates
    wrong = LowRank(down=torch.ones(2, 7), up=torch.ones(5, 2))
    odd = Network("odd", None, {**network.updates, name: wrong, "lora_unet_nowhere": wrong})
    with attach(host, odd) as attached:
        assert attached.unmatched.keys() == {name, "lora_unet_nowhere"}
        assert attached.report.startswith("applied 301 of 303 modules")
    assert "lora_unet_nowhere is not applied: the model has no such layer" in caplog.text
    with pytest.raises(BadInput, match=r"changes nothing in this model \(sd1\).*lora_unet_nowhere"):
        attach(host, Network("none", None, {"lora_unet_nowhere": wrong}))
    with pytest.raises(BadInput, match="made for sdxl, this model is sd1"):
        attach(host, Network("xl", "sdxl", network.updates))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        *(
            ({"multiplier": wrong}, "multiplier: got")
            for wrong in ("0.5", None, math.nan, [1.0], True, torch.ones(2, 2))
        ),
        ({"multiplier": {"unet": None}}, "multiplier of unet: got None"),
        ({"multiplier": {"te9": 1.0}}, "there is no part te9"),
        *(({"blocks": wrong}, "blocks: got") for wrong in ("OUTALL", [math.nan] * 25, ["1"] * 25, 1.0)),
        *(({"rank": wrong}, "rank: got") for wrong in ("4", 0, 2.0, True)),
        ({"family": "sd3"}, "family: got 'sd3', expected one of sd1, sd2, sdxl"),
    ],
)
def test_what_is_no_argument_is_refused_at_once(host, network, unchanged, told, said):
    with pytest.raises(BadInput) as refused:
        attach(host, network, **told)
    assert said in str(refused.value)


def test_parts_that_are_no_models_are_refused(host, network):
    for parts, said in (
        ({"unet": None}, "model: got None as unet"),
        ({}, "got no part"),
        ({"te2": host.parts()["te"]}, "sd1 has no part 'te2'"),
    ):
        with pytest.raises(BadInput, match=said):
            attach(parts, network, family="sd1")
    with attach(host, network) as attached:
        with pytest.raises(BadInput, match="multiplier: got nan"):
            attached.set_multiplier(math.nan)
        attached.set_multiplier(torch.tensor([1.0, 0.5]))


class Attention(nn.Module):
    """As OpenCLIP's block uses torch's attention, whose projections it fuses."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > 9:
            raise RuntimeError("too long")
        return self.attn(x, x, x, need_weights=False)[0]


def open_clip() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Module()
    model.transformer = nn.Module()
    model.transformer.resblocks = nn.ModuleList([Attention()])
    return model.eval()


@pytest.mark.parametrize("grad", [False, True])
def test_fused_attention_is_changed_for_a_call_alone(grad):
    model = open_clip()
    block, before = model.transformer.resblocks[0], {k: v.clone() for k, v in model.state_dict().items()}
    layers = find_layers({"te2": model}, "sdxl")
    x = torch.randn(2, 5, 16)
    with torch.set_grad_enabled(grad):
        plain = block(x)
        one, two = (attach({"te2": model}, random_network(layers, seed=seed), 0.8) for seed in (1, 2))
        added = block(x)
        for attached in (one, two):
            attached.merge()
        torch.testing.assert_close(block(x), added, atol=1e-5, rtol=1e-4)
        assert (added - plain).abs().max() > 0.01
        for attached in (two, one):
            attached.unmerge()
        with pytest.raises(RuntimeError, match="too long"):
            block(torch.randn(2, 10, 16))
        with pytest.raises(AssertionError):  # torch's own, inside its attention
            block.attn(torch.randn(2, 5, 3), x, x, need_weights=False)
        assert not {"in_proj_weight", "in_proj_bias"} & block.attn.__dict__.keys()
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
        one.remove()
        two.remove()
        assert torch.equal(block(x), plain)


def test_half_weights_come_back_to_the_byte():
    unet = new_sd2()[0].half()
    layers = trained_layers(find_layers({"unet": unet}, "sd2"), conv=True)
    before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    with attach(unet, random_network(layers), 0.3, merged=True):
        pass
    assert all(torch.equal(before[key], tensor) for key, tensor in unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())
