"""A model that is lent to need less memory: the same answers and gradients, and given back as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.core.memory import record
from lib_ti.hosts.base import Economy
from lib_ti.hosts.economy import economised
from lib_ti.hosts.standalone import StandaloneHost
from tests.hosts.tiny import SDXL_WIDTHS, new_sdxl

CPU = torch.device("cpu")


def answers(host: StandaloneHost, economy: Economy, side: int = 8) -> tuple[list[torch.Tensor], float]:
    """The noise for a prompt, the gradient of two vectors, and the memory that took."""
    generator = torch.Generator().manual_seed(0)
    widths = host.info.text_encoders
    vectors = {k: (torch.randn(2, w, generator=generator) * 0.02).requires_grad_() for k, w in widths.items()}
    latents = torch.randn(2, 4, side, side, generator=generator)
    found: list[torch.Tensor] = []

    def step() -> None:
        condition = host.encode_prompts(["a zqx", "a red star"])
        noise = host.predict_noise(latents, torch.tensor([500, 100]), condition)
        found.extend([noise.detach(), *torch.autograd.grad(noise.square().mean(), [*vectors.values()])])

    with host.lend():
        host.economise(economy)
        host.set_embeddings({"zqx": vectors})
        needed = record(step, CPU).peak
    return found, needed


def test_checkpointing_changes_no_bit_and_needs_less(host: StandaloneHost) -> None:
    kept, much = answers(host, Economy(), side=16)
    again, little = answers(host, Economy(checkpointing=True), side=16)
    for one, other in zip(kept, again, strict=True):
        assert float(one.abs().max()) > 0
        assert torch.equal(one, other)
    assert little < 0.5 * much


@pytest.mark.parametrize("attention", ["sdpa", "sliced"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_attention_gives_the_same_answers(
    host: StandaloneHost, attention: str, checkpointing: bool
) -> None:
    usual, _ = answers(host, Economy())
    other, _ = answers(host, Economy(checkpointing, attention))
    for one, two in zip(usual, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_slices_need_less_where_scores_are_kept(host: StandaloneHost) -> None:
    """As on a device without a fused attention."""
    kernel = pytest.importorskip("torch.nn.attention")
    with kernel.sdpa_kernel(kernel.SDPBackend.MATH):
        _, whole = answers(host, Economy(attention="sdpa"), side=16)
        _, sliced = answers(host, Economy(attention="sliced"), side=16)
    assert sliced < 0.7 * whole


def test_sdxl_too() -> None:
    parts = new_sdxl()
    unet, first, second = parts[0], parts[2], parts[3]
    with economised(unet, [first, second], Economy(True, "sliced")):
        changed = {type(m).__name__ for part in (unet, first, second) for m in part.modules() if owns(m)}
    assert changed == {"Attention", "BasicTransformerBlock", "ResnetBlock2D", "CLIPEncoderLayer"}
    assert SDXL_WIDTHS.keys() == {"clip_l", "clip_g"}


def owns(module: nn.Module) -> bool:
    return "forward" in vars(module)


def test_everything_is_given_back_after_an_error_too(host: StandaloneHost) -> None:
    modules = [part for model in host._modules() for part in model.modules()]
    before = [sorted(vars(module)) for module in modules]
    devices = {p.device for p in host._vae.parameters()}

    def borrow() -> None:
        with host.lend():
            host.economise(Economy(checkpointing=True, attention="sliced", vae_away=True))
            host.economise(Economy(checkpointing=True))
            assert not any(owns(module) for module in modules if type(module).__name__ == "Attention")
            assert sum(map(owns, modules)) > 10
            raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        borrow()
    assert [sorted(vars(module)) for module in modules] == before
    assert {p.device for p in host._vae.parameters()} == devices
    with pytest.raises(RuntimeError, match="in a loan only"):
        host.economise(Economy())


def test_somebody_elses_forward_stays(host: StandaloneHost) -> None:
    block: Any = next(m for m in host._unet.modules() if type(m).__name__ == "ResnetBlock2D")
    theirs: Callable[..., Any] = block.forward
    block.forward = theirs
    try:
        with host.lend():
            host.economise(Economy(checkpointing=True))
            assert vars(block)["forward"] is theirs
        assert vars(block)["forward"] is theirs
    finally:
        del block.forward


def test_a_missing_package_is_told(host: StandaloneHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with host.lend(), pytest.raises(BadInput, match=r"xformers cannot be used here .* choose sdpa or sliced"):
        host.economise(Economy(attention="xformers"))
