"""The options of sd-scripts' network training, and what becomes of each in ``ti-studio train``.

Source of the options: kohya-ss/sd-scripts, train_network.py and sdxl_train_network.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lib_ti.commands.sd_scripts_entry import Entry, Ours, becomes, needless, only, sets, switched
from lib_ti.commands.sd_scripts_model import EMBEDDING
from lib_ti.commands.sd_scripts_options import DEFAULTS, OPTIONS
from lib_ti.commands.sd_scripts_validation import BEGINNING, VALIDATION
from lib_ti.core.errors import BadInput
from lib_ti.core.settings import from_text
from lib_ti.methods.network_args import read_network_args
from lib_ti.methods.network_rates import FASTEST, SLOWEST
from lib_ti.methods.network_settings import NetworkSettings

_MODULES = {"networks.lora": "lora", "networks.dylora": "dylora", "lycoris.kohya": "lora"}
_EIGHT_BITS = {
    **{name.lower(): sets({"--optimizer": name}) for name in ("AdamW8bit", "PagedAdamW", "PagedAdamW8bit")},
    **{
        name.lower(): sets({"--optimizer": f"bitsandbytes.optim.{name}"})
        for name in ("PagedAdamW32bit", "Lion8bit", "PagedLion8bit")
    },
}
_KEPT_PROMPTS = "where only the U-Net learns every prompt is encoded once"

_NETWORK: Mapping[str, Entry] = {
    "fp8_base_unet": OPTIONS["fp8_base"],
    **BEGINNING,
    **VALIDATION,
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
    "text_encoder_lr": Entry(several=True),  # of SDXL two
    "base_weights": Entry(several=True),
    "base_weights_multiplier": Entry(several=True),
    "scale_weight_norms": becomes("--max-norm"),
    "no_metadata": sets(
        {"--no-picture-metadata": ""},
        told="nothing is said of pictures and captions; the file still says what it is and how it was made",
        switch=True,
    ),
    # Elsewhere they are of another consequence.
    "save_precision": Entry(
        choices={"float": sets({"--save-precision": "fp32"})}, ours=becomes("--save-precision").ours
    ),
    "optimizer_type": replace(
        OPTIONS["optimizer_type"],
        choices={
            **OPTIONS["optimizer_type"].choices,
            **_EIGHT_BITS,
        },
    ),
    "use_8bit_adam": switched("--optimizer", "AdamW8bit"),
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
    module = given["network_module"].lower()
    method, words = _MODULES[module], given.get("network_args", "").split()
    if module == "lycoris.kohya":
        words = [*_usual_of_lycoris(given, words), *words]
    found = read_network_args(words, method, option="--network_args")
    flags = {f"--{name.replace('_', '-')}": value for name, value in found.items()}
    return {"--name": given.get("output_name", "last"), **flags, **_base(given), **_rates(given, ours)}


def _usual_of_lycoris(given: Mapping[str, str], words: Sequence[str]) -> list[str]:
    """Its LoRA has 3x3 convolutions too, with rank and alpha of the rest unless they are given others."""
    told = {word.partition("=")[0] for word in words}
    rank, alpha = NETWORK_DEFAULTS["--rank"], NETWORK_DEFAULTS["--alpha"]
    usual = {"conv_dim": given.get("network_dim", rank), "conv_alpha": given.get("network_alpha", alpha)}
    return [f"{name}={value}" for name, value in usual.items() if name not in told]


def _base(given: Mapping[str, str]) -> Ours:
    """The networks that training begins on, each with its multiplier; one that is given none has 1."""
    files = given.get("base_weights", "").splitlines()
    numbers = given.get("base_weights_multiplier", "").splitlines()
    lines = []
    for place, file in enumerate(files):
        number = numbers[place] if place < len(numbers) else "1"
        from_text(NetworkSettings, "base_multiplier", number, f"--base_weights_multiplier {number}")
        lines.append(f"{file}:{float(number):g}")
    return {"--base-weights": "\n".join(lines)} if lines else {}


def _rates(given: Mapping[str, str], ours: Ours) -> Ours:
    """Rates of parts, absolute there, as multiples of one; a part whose rate is 0 is not trained."""
    if not {"unet_lr", "text_encoder_lr"} & given.keys():
        return {}
    base = ours["--learning-rate"]
    text = given.get("text_encoder_lr", base).splitlines()
    base_shown = f"--learning_rate={base}"
    text_shown = f"--text_encoder_lr{' ' if len(text) > 1 else '='}{' '.join(text)}"
    if "text_encoder_lr" not in given:
        text_shown = base_shown
    unet_shown = f"--unet_lr={given['unet_lr']}" if "unet_lr" in given else base_shown
    shown = {"unet": unet_shown, "text": text_shown, "second-text": text_shown}
    rates = {
        part: _rate(shown[part], rate)
        for part, rate in zip(shown, [given.get("unet_lr", base), *text], strict=False)
    }
    if len(text) > 2 or (len(text) == 2 and (rates["text"] == 0) != (rates["second-text"] == 0)):
        raise BadInput(
            f"{text_shown}: expected one rate, or two of which both or none are 0: no text encoder is left "
            "out alone here."
        )
    trained = [part for part in ("unet", "text") if rates[part] and ours.get("--train-parts") in (None, part)]
    if not trained:
        raise BadInput("--unet_lr and --text_encoder_lr leave nothing to train; give one of them a rate.")
    whole = _rate(base_shown, base) or rates[trained[0]]
    shares = {f"--{part}-rate": _share(shown[part], rate, whole) for part, rate in rates.items() if rate}
    only_one = {"--train-parts": trained[0]} if len(trained) == 1 else {}
    return {"--learning-rate": base if float(base) else f"{whole:g}", **shares, **only_one}


def _rate(shown: str, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise BadInput(f"{shown}: expected a number of at least 0, as a rate of a part goes with one rate.")
    return rate


def _share(shown: str, rate: float, whole: float) -> str:
    if not SLOWEST <= rate / whole <= FASTEST:
        raise BadInput(
            f"{shown} is {rate / whole:g} times the {whole:g} of --learning_rate; expected {SLOWEST:g} to "
            f"{FASTEST:g} times: bring the two nearer."
        )
    return f"{rate / whole:.6g}"
