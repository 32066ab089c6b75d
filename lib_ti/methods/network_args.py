"""sd-scripts' ``network_args`` (and what LyCORIS adds to them) as settings of ours."""

from __future__ import annotations

from collections.abc import Sequence

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.settings import from_text
from lib_ti.methods.network_settings import DyLoraSettings

# Its names -> ours.
_NAMES = {
    "conv_dim": "conv_rank",
    "conv_alpha": "conv_alpha",
    "unit": "unit",
    "block_size": "unit",  # LyCORIS' word for it
    "loraplus_lr_ratio": "up_rate",
    "loraplus_unet_lr_ratio": "unet_up_rate",
    "loraplus_text_encoder_lr_ratio": "text_up_rate",
    **{
        name: name
        for name in (
            *("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"),
            *("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold"),
            *("dropout", "rank_dropout", "module_dropout"),
        )
    },
}
_ALGORITHMS = ("lora", "locon", "dylora")


def read_network_args(
    words: Sequence[str], method: str = "lora", option: str = "network-args"
) -> dict[str, str]:
    """``conv_dim=4 down_lr_weight=sine+.5``: settings with their values as text, "method" among them.

    ``method``: the one without these arguments; ``option``: what the user calls them. Raises BadInput for
    what is not known here, and for what no setting takes.
    """
    found: dict[str, str] = {}
    if (length := sum(map(len, words))) > limits.ARGUMENTS:
        raise BadInput(f"{option}: it has {length} characters; at most {limits.ARGUMENTS} are read.")
    unit = ""
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if name == "algo" and value.lower() in _ALGORITHMS:
            method = "dylora" if value.lower() == "dylora" else method
        elif equals and name in _NAMES:
            # DyLoRA's settings are those of all networks, and its own.
            from_text(DyLoraSettings, _NAMES[name], value, f"{option} {word}")
            found[_NAMES[name]] = value
            unit = word if _NAMES[name] == "unit" else unit
        else:
            known = f"algo ({', '.join(_ALGORITHMS)}), {', '.join(_NAMES)}"
            raise BadInput(f"{option}: got {word!r}, expected NAME=VALUE with one of {known}.")
    if unit and method != "dylora":
        raise BadInput(
            f"{option}: got {unit!r}, which is DyLoRA's; train one (networks.dylora, or --method dylora), or "
            "leave it out."
        )
    conv = {"conv_rank", "conv_block_dims"} & found.keys()
    if conv:
        found.setdefault("conv_alpha", "1")  # as there
    return {"method": "c3lier" if conv and method == "lora" else method, **found}
