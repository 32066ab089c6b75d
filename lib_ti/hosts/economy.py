"""A lent model made to need less memory, on every host alike: the parts in question go by known names.

A part's ``forward`` is shadowed on the instance, so programs that patch a class are heard all the same, and
what is taken away leaves the part as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from lib_ti.core.errors import BadInput
from lib_ti.hosts.base import Economy

# Of the U-Net in diffusers, ldm and sgm, and of the text encoders in transformers and open_clip.
_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D", "ResBlock", "CLIPEncoderLayer", "ResidualAttentionBlock")
_ATTENTION = ("Attention", "CrossAttention", "MemoryEfficientCrossAttention")

# Queries, keys and values, each (b, heads, n, d), -> (b, heads, n, d).
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@contextmanager
def economised(unet: nn.Module, texts: Iterable[nn.Module], economy: Economy) -> Iterator[None]:
    """Inside, the U-Net attends as asked and blocks keep nothing but their input for the backward pass.

    Raises BadInput for an attention that is not installed.
    """
    with ExitStack() as undo:
        if economy.attention != "model":
            kernel = attention_kernel(economy.attention)
            for part in _parts(unet, _ATTENTION):
                undo.enter_context(_answering(part, partial(_attend, part, kernel)))
        if economy.checkpointing:
            for model in (unet, *texts):
                for part in _parts(model, _BLOCKS):
                    undo.enter_context(_answering(part, partial(_recomputed, part)))
        yield


def _parts(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    return [part for part in model.modules() if type(part).__name__ in names]


@contextmanager
def _answering(part: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """``part`` answers by ``forward``. One that already has a forward of its own is somebody else's."""
    if "forward" in vars(part):
        yield
        return
    part.forward = forward
    try:
        yield
    finally:
        del part.forward


def _recomputed(block: nn.Module, *told: Any, **named: Any) -> Any:
    """Not reentrant: the reentrant kind gives no gradient to what is no argument, and wants one that has."""
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*told, **named)
    return checkpoint(forward, *told, use_reentrant=False, **named)


def _attend(
    layer: Any,
    kernel: Kernel,
    x: torch.Tensor,
    context: torch.Tensor | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    **_unused: Any,
) -> torch.Tensor:
    """Attention of (b, n, c) to (b, m, e), which ldm calls ``context`` and diffusers
    ``encoder_hidden_states``; to ``x`` itself without. These U-Nets mask nothing."""
    heard = next((told for told in (context, encoder_hidden_states) if told is not None), x)
    q, k, v = (
        rows.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for rows in (layer.to_q(x), layer.to_k(heard), layer.to_v(heard))
    )
    x = kernel(q, k, v).transpose(1, 2).flatten(2)
    for part in layer.to_out:
        x = part(x)
    return x


def _sliced(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Each head apart, its scores computed again in the backward pass: one head's are in memory at once."""
    heads = zip(q.split(1, dim=1), k.split(1, dim=1), v.split(1, dim=1), strict=True)
    return torch.cat(
        [checkpoint(scaled_dot_product_attention, *head, use_reentrant=False) for head in heads], dim=1
    )


def attention_kernel(name: str) -> Kernel:
    """Raises BadInput for one that is not installed."""
    if name == "sdpa":
        return scaled_dot_product_attention
    if name == "sliced":
        return _sliced
    try:
        from xformers.ops import memory_efficient_attention
    except (ImportError, OSError, RuntimeError) as error:
        raise BadInput(
            f"attention: xformers cannot be used here ({error}); install it, or choose sdpa or sliced."
        ) from error
    # It wants the heads behind the places.
    return lambda q, k, v: memory_efficient_attention(
        *(rows.transpose(1, 2).contiguous() for rows in (q, k, v))
    ).transpose(1, 2)
