"""Runs inside a real WebUI: networks in prompts. See probe.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks  # the built-in Lora's
import torch
from modules import extra_networks, scripts, shared, ui_extra_networks
from probe_tools import check, digest
from safetensors.torch import save_file

from lib_ti.hosts import a1111_networks
from lib_ti.hosts.a1111_model import family_of, parts_of
from lib_ti.networks.files import network_metadata
from lib_ti.networks.layers import find_layers, trained_layers


@check
def write_network(name: str, seed: int, size: float = 0.1, rank: int = 4, of: str = "") -> str:
    """A C3Lier for the checkpoint that is loaded, where the WebUI looks for LoRAs; for parts in ``of``."""
    family = family_of(shared.sd_model)
    layers = trained_layers(find_layers(parts_of(shared.sd_model, family), family), conv=True)
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for key, layer in layers.items():
        if layer.part not in (of or layer.part):
            continue
        shape, ones = layer.weight.shape, [1] * (layer.weight.ndim - 2)
        inputs = layer.weight.shape[1]
        rows = shape[0] if layer.rows is None else layer.rows.stop - layer.rows.start
        down = torch.randn(rank, inputs, *shape[2:], generator=generator)
        tensors[f"{key}.lora_down.weight"] = down * size
        tensors[f"{key}.lora_up.weight"] = torch.randn(rows, rank, *ones, generator=generator) * size
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    path = Path(shared.cmd_opts.lora_dir, f"{name}.safetensors")
    told = network_metadata(family, dim=rank, alpha=rank, title=name)
    save_file(tensors, path, {**told, "sshs_model_hash": f"{seed:0<64x}"})
    networks.list_available_networks()
    return str(path)


@check
def model_state() -> dict[str, Any]:
    """What a picture must leave as it was; the built-in extension cleans up at the next use of a layer."""
    networks.load_networks([])
    with torch.no_grad():
        for module in shared.sd_model.modules():
            if getattr(module, "network_current_names", ()):
                networks.network_apply_weights(module)
    state = {name: digest(tensor) for name, tensor in shared.sd_model.state_dict().items()}
    modules = list(shared.sd_model.modules())
    return {
        "weights": state,
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
        "shadowed": [name for m in modules for name in m._parameters if name in vars(m)],
        "hanging": a1111_networks._Drawing.hanging is not None,
    }


@check
def failing_unet(after: int) -> None:
    """The U-Net raises at its call number ``after``, once."""
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            handle.remove()
            raise RuntimeError("asked for by a test")

    handle = shared.sd_model.model.diffusion_model.register_forward_hook(fail)


@check
def take_over(on: bool, beside: bool = False) -> None:
    """As after a start with the setting on and the built-in extension off, or on ("beside"); or as before."""
    if on and not beside:
        extra_networks.extra_network_registry.pop("lora")
        networks.load_networks([])
    if not on:
        extra_networks.register_extra_network(networks.extra_network_lora)
        extra_networks.extra_network_aliases.pop("lora")
    a1111_networks.register(takes_over=on)


@check
def cards() -> dict[str, Any]:
    """What the page shows of each network."""
    pages = [page for page in ui_extra_networks.extra_pages if page.title == "Networks"]
    (page,) = pages
    page.create_html("txt2img")
    return {name: {k: item[k] for k in ("prompt", "description")} for name, item in page.items.items()}


@check
def axes() -> dict[str, int]:
    """Ours, by the numbers that the grid gives them."""
    options = scripts.scripts_txt2img.script("X/Y/Z plot").current_axis_options
    labels = [option.label for option in options]
    return {label: labels.index(label) for label in labels if label.startswith("[TI Studio]")}
