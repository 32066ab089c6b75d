"""What a job changes in AUTOMATIC1111's WebUI, each as a context that undoes it, after an error too.

Contexts nest: a preview, which lets the WebUI switch things on again, enters ``neutral`` once more and
leaves everything as training needs it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from lib_ti.hosts.a1111_networks import builtin_networks, end_drawing
from lib_ti.hosts.loan import moved

_MISSING = object()


@contextmanager
def kept(owner: object, *names: str) -> Iterator[None]:
    """Afterwards the attributes are again the objects they were, or again not the instance's own."""
    before = {name: vars(owner).get(name, _MISSING) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _MISSING:
                vars(owner).pop(name, None)
            else:
                setattr(owner, name, value)


@contextmanager
def option_set(name: str, value: Any) -> Iterator[None]:
    """One of the WebUI's settings, for a while; those that nobody has changed have no entry of their own."""
    from modules import shared

    options = shared.opts.data
    known = {name: options[name]} if name in options else {}
    options[name] = value
    try:
        yield
    finally:
        del options[name]
        options.update(known)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter takes gradient: autograd then saves no activations for weight gradients."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def differentiable(text_models: Iterable[Any]) -> Iterator[None]:
    """SDXL's code runs a text encoder without gradient unless it is said to be trainable."""
    with ExitStack() as undo:
        for text in text_models:
            undo.enter_context(kept(text, "is_trainable"))
            text.is_trainable = True
        yield


@contextmanager
def text_encoders_at_hand(model: Any) -> Iterator[None]:
    """On the device throughout, also with --medvram, where the U-Net's turn would send them away.

    The backward pass reads the weights of their norms again, from wherever they are by then.
    """
    from modules import devices, lowvram

    if not model.lowvram:
        yield
        return
    lowvram.send_everything_to_cpu()
    with ExitStack() as undo:
        undo.enter_context(moved(model.cond_stage_model, devices.device))
        for part in model.cond_stage_model.modules():
            hooks = part._forward_pre_hooks
            undo.enter_context(kept(part, "_forward_pre_hooks"))
            part._forward_pre_hooks = OrderedDict(
                (key, hook) for key, hook in hooks.items() if hook.__module__ != lowvram.__name__
            )
        yield


@contextmanager
def channels_last(unet: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Convolutions with their weights in the order that the WebUI's attention blocks give the activations.

    Otherwise each convolution reorders its weights, in every forward and again in every backward: on a CPU
    a third of a step. Gives the weights whose order it changed; their values stay, and 1x1 weights, which
    are in both orders at once.
    """
    weights = [
        p
        for p in unet.parameters()
        if p.dim() == 4 and p.is_contiguous() and not p.is_contiguous(memory_format=torch.channels_last)
    ]
    try:
        _reorder(weights, torch.channels_last)
        yield weights
    finally:
        _reorder(weights, torch.contiguous_format)


@contextmanager
def usual_order(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Sums are rounded as in the user's own pictures, which ``channels_last`` does not keep."""
    try:
        _reorder(weights, torch.contiguous_format)
        yield
    finally:
        _reorder(weights, torch.channels_last)


def _reorder(weights: Iterable[nn.Parameter], order: torch.memory_format) -> None:
    """In place: the same memory, the same values, other strides."""
    for weight in weights:
        values = weight.data.clone(memory_format=order)
        weight.data = weight.data.as_strided(values.shape, values.stride()).copy_(values)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """The WebUI seeds the global generators for every picture."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the host's own
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def neutral(model: Any) -> Iterator[None]:
    """The checkpoint as it is: without hypernetworks, LoRAs, another U-Net, token merging and tiling."""
    with ExitStack() as undo:
        undo.enter_context(_no_prompt_networks())
        undo.enter_context(_no_hypernetworks())
        undo.enter_context(_no_loras(model))
        undo.enter_context(_own_unet())
        undo.enter_context(_no_token_merging(model))
        undo.enter_context(_no_tiling())
        yield


@contextmanager
def own_vae(model: Any) -> Iterator[None]:
    """The VAE that the checkpoint came with, in the place of one loaded beside it.

    The U-Net was trained on the latents of its own. Where the WebUI no longer has it, nothing changes.
    """
    from modules import sd_vae

    file = sd_vae.loaded_vae_file
    if file is None or sd_vae.get_base_vae(model) is None:
        yield
        return
    sd_vae.load_vae(model, None)
    try:
        yield
    finally:
        sd_vae.load_vae(model, file, "again after training")


@contextmanager
def condition_caches_cleared() -> Iterator[None]:
    """The keys of the WebUI's cache do not tell embeddings: what it holds may be out of date afterwards."""
    from modules.processing import StableDiffusionProcessing, StableDiffusionProcessingTxt2Img

    try:
        yield
    finally:
        for cache in (
            StableDiffusionProcessing.cached_c,
            StableDiffusionProcessing.cached_uc,
            StableDiffusionProcessingTxt2Img.cached_hr_c,
            StableDiffusionProcessingTxt2Img.cached_hr_uc,
        ):
            cache[:] = [None, None]


@contextmanager
def _no_hypernetworks() -> Iterator[None]:
    from modules import shared

    active = shared.loaded_hypernetworks
    before = list(active)
    active.clear()
    try:
        yield
    finally:
        active[:] = before


@contextmanager
def _no_prompt_networks() -> Iterator[None]:
    end_drawing()  # of a generation that was broken off
    try:
        yield
    finally:
        end_drawing()  # of a preview


@contextmanager
def _no_loras(model: nn.Module) -> Iterator[None]:
    networks = builtin_networks()
    if networks is None:
        yield
        return
    before, merged = list(networks.loaded_networks), _merged_layers(model)
    networks.loaded_networks.clear()
    _merge_again(networks, merged)
    try:
        yield
    finally:
        networks.load_networks([])  # also takes back the embeddings bundled in a preview's LoRAs
        _merge_again(networks, _merged_layers(model))
        networks.loaded_networks[:] = before
        _merge_again(networks, merged)


def _merged_layers(model: nn.Module) -> list[nn.Module]:
    """Those whose weights the built-in extension has changed in place."""
    return [module for module in model.modules() if getattr(module, "network_current_names", ())]


@torch.no_grad()
def _merge_again(networks: Any, layers: list[nn.Module]) -> None:
    """Make their weights those of the loaded networks now, and not only at their next forward."""
    for layer in layers:
        networks.network_apply_weights(layer)


@contextmanager
def _own_unet() -> Iterator[None]:
    from modules import sd_unet

    before = sd_unet.current_unet_option
    sd_unet.apply_unet("None")
    try:
        yield
    finally:
        sd_unet.apply_unet("None" if before is None else before.label)


@contextmanager
def _no_token_merging(model: Any) -> Iterator[None]:
    from modules import sd_models

    before = getattr(model, "applied_token_merged_ratio", 0)
    sd_models.apply_token_merging(model, 0)
    try:
        yield
    finally:
        sd_models.apply_token_merging(model, before)


@contextmanager
def _no_tiling() -> Iterator[None]:
    from modules.sd_hijack import model_hijack

    before = model_hijack.circular_enabled
    model_hijack.apply_circular(False)
    try:
        yield
    finally:
        model_hijack.apply_circular(before)
