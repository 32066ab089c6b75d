"""Checkpoints and networks to work on: the built-in model, and random LoRAs for its layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import lib_ti
from lib_ti.networks.algebra import LowRank, Update
from lib_ti.networks.files import Network
from lib_ti.networks.layers import StoredLayer, trained_layers
from lib_ti.networks.tools.stored import Checkpoint, open_checkpoint

BUILTIN = Path(lib_ti.__file__).parent / "tinyworld" / "weights" / "tinyworld.safetensors"


def builtin() -> Checkpoint:
    return open_checkpoint(BUILTIN)


def in_float(folder: Path) -> Path:
    """The built-in checkpoint in float32."""
    path = folder / "base.safetensors"
    save_file({name: tensor.float() for name, tensor in load_file(BUILTIN).items()}, path)
    return path


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora_for(checkpoint: Checkpoint, layer: StoredLayer, rank: int, alpha: float, seed: int) -> LowRank:
    """Of a size that changes pictures."""
    out, *others = checkpoint.shape(layer)
    ones = [1] * (len(others) - 1)
    up = randn(out, rank, *ones, seed=seed) * 0.1
    return LowRank(up=up, down=randn(rank, *others, seed=seed + 1) * 0.1, alpha=alpha)


def lora(
    checkpoint: Checkpoint,
    rank: int = 4,
    alpha: float = 2.0,
    seed: int = 0,
    *,
    conv: bool = True,
    name: str = "net",
) -> Network:
    """A random LoRA of every layer that LierLa trains, and with ``conv`` C3Lier."""
    layers = trained_layers(checkpoint.layers, conv=conv)
    updates: Mapping[str, Update] = {
        layer: lora_for(checkpoint, layers[layer], rank, alpha, seed + 2 * place)
        for place, layer in enumerate(layers)
    }
    return Network(name, checkpoint.family, updates)


def delta(network: Network | Mapping[str, Update], name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """What a network adds to a layer's weight that is no matter for it."""
    updates = network.updates if isinstance(network, Network) else network
    return updates[name].delta(torch.empty(shape))
