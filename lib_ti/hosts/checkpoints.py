"""Stable Diffusion models from disk, or a hub, as the modules of diffusers and transformers."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.hosts.base import Prediction
from lib_ti.hosts.components import Components
from lib_ti.hosts.pretrained import load_folder, load_pretrained
from lib_ti.hosts.single_file import load_file

BUILTIN = Path(__file__).parent.parent / "tinyworld" / "weights" / "tinyworld.safetensors"

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_components(
    model: str | Path, dtype: torch.dtype = torch.float32, *, prediction: Prediction | None = None
) -> Components:
    """``model``: "builtin", a single file, a diffusers folder, or a hub id ``organisation/name``.

    ``dtype`` is not that of SDXL's VAE, which stays in float32. ``prediction`` overrules what the model
    says of itself. Only a hub id reaches for the network.
    Raises BadInput where there is no such model, or it is none of SD1.x, SD2.x and SDXL.
    """
    path = BUILTIN if str(model) == "builtin" else Path(model).expanduser()
    if path.is_dir():
        return load_folder(path, dtype, prediction)
    if path.is_file():
        return load_file(path, dtype, prediction)
    if HUB_ID.fullmatch(str(model)) and path.suffix not in (".safetensors", ".ckpt"):
        return load_pretrained(str(model), dtype, prediction)
    raise BadInput(
        f"There is no model at {path}: give a .safetensors or .ckpt file, a diffusers folder, "
        f"a hub id such as organisation/name, or 'builtin'."
    )
