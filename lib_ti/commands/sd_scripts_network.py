"""The options of sd-scripts' network training, and what becomes of each in ``ti-studio train``.

Source of the options: kohya-ss/sd-scripts, train_network.py and sdxl_train_network.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lib_ti.commands.sd_scripts_options import (
    DEFAULTS,
    EMBEDDING,
    OPTIONS,
    Entry,
    Ours,
    becomes,
    missing,
    needless,
    only,
    sets,
    switched,
)
from lib_ti.core.errors import BadInput
from lib_ti.methods.network_args import read_network_args

_MODULES = {"networks.lora": "lora", "networks.dylora": "dylora", "lycoris.kohya": "lora"}
_SMALL = sets({"--optimizer": "AdamW"}, told="AdamW it is: what it keeps of a network is small")
_KEPT_PROMPTS = "where only the U-Net learns every prompt is encoded once"

_NETWORK: Mapping[str, Entry] = {
    "network_module": only(*_MODULES, instead=f"use {', '.join(_MODULES)}"),
    "network_dim": becomes("--rank"),
    "network_alpha": becomes("--alpha"),
    "network_dropout": becomes("--dropout"),
    "network_args": Entry(several=True),
    "network_weights": becomes("--network-weights"),
    "dim_from_weights": switched("--dim-from-weights"),
    "network_train_unet_only": switched("--train-parts", "unet"),
    "network_train_text_encoder_only": switched("--train-parts", "text"),
    "unet_lr": Entry(),
    "text_encoder_lr": Entry(),
    "base_weights": becomes("--base-weights"),
    "base_weights_multiplier": becomes("--base-multiplier"),
    "scale_weight_norms": becomes("--max-norm"),
    "no_metadata": missing("the file always says what it is", switch=True),
    # Elsewhere they are of another consequence.
    "save_precision": Entry(
        choices={"float": sets({"--save-precision": "fp32"})}, ours=becomes("--save-precision").ours
    ),
    "save_model_as": only("safetensors", instead="use safetensors, which every program reads"),
    "optimizer_type": replace(
        OPTIONS["optimizer_type"],
        choices={
            **OPTIONS["optimizer_type"].choices,
            **dict.fromkeys(("adamw8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit"), _SMALL),
        },
    ),
    "use_8bit_adam": replace(_SMALL, switch=True),
    **dict.fromkeys(
        ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"),
        needless(_KEPT_PROMPTS, switch=True),
    ),
}

_OF_INVERSION = {*EMBEDDING, "use_style_template", "use_object_template"}
NETWORK_OPTIONS: Mapping[str, Entry] = {
    name: entry for name, entry in {**OPTIONS, **_NETWORK}.items() if name not in _OF_INVERSION
}
NETWORK_DEFAULTS: Ours = {
    **{flag: value for flag, value in DEFAULTS.items() if flag not in ("--vectors", "--init")},
    "--rank": "4",
    "--alpha": "1",
    "--text-rate": "1",
    "--save-precision": "fp32",
}


def network_ours(given: Mapping[str, str], ours: Ours) -> Ours:
    """Options of ours that several of theirs make together. Raises BadInput."""
    if given.get("network_module", "").lower() not in _MODULES:
        raise BadInput(f"--network_module is missing; expected one of {', '.join(_MODULES)}.")
    if {"network_train_unet_only", "network_train_text_encoder_only"} <= given.keys():
        raise BadInput("--network_train_unet_only beside --network_train_text_encoder_only leaves nothing.")
    method = _MODULES[given["network_module"].lower()]
    found = read_network_args(given.get("network_args", "").split(), method)
    flags = {f"--{name.replace('_', '-')}": value for name, value in found.items()}
    for theirs, flag in (("unet_lr", "--unet-rate"), ("text_encoder_lr", "--text-rate")):
        if theirs in given:
            flags[flag] = _share(theirs, given[theirs], ours["--learning-rate"])
    return {"--name": given.get("output_name", "last"), **flags}


def _share(option: str, rate: str, of: str) -> str:
    """One rate as a multiple of the other."""
    try:
        return f"{float(rate) / float(of):.6g}"
    except (ValueError, ZeroDivisionError):
        raise BadInput(f"--{option}={rate}: expected a number, beside one of --learning_rate.") from None
