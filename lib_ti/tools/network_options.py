"""The settings that tools for network files have in common."""

from __future__ import annotations

from typing import Any

from lib_ti.core.settings import option

_AS_READ = "as read"
_NAME = "The new file's name; .safetensors where it has no suffix."


def network(help: str, **more: Any) -> Any:
    return option("", help, group="file", file="network", needed=True, **more)


def checkpoint(help: str, **more: Any) -> Any:
    return option("", help, group="file", file="checkpoint", needed=True, **more)


def new_network() -> Any:
    return option("", _NAME, group="file", file="new-network", needed=True, label="New file")


def new_checkpoint() -> Any:
    return option("", _NAME, group="file", file="new-checkpoint", needed=True, label="New checkpoint")


def save_precision() -> Any:
    return option(
        _AS_READ,
        "Of the numbers in the new file.",
        group="file",
        choices=(_AS_READ, "fp32", "fp16", "bf16"),
        label="Precision of the file",
    )


def rank(default: int, help: str, low: int = 0) -> Any:
    return option(default, help, group="rank", low=low, high=1024)


def conv_rank(zero: str) -> Any:
    """``zero``: what 0 means."""
    told = f"Of 3x3 convolutions; 0: {zero}."
    return option(0, told, group="rank", low=0, high=1024, label="Convolution rank")


def clamp() -> Any:
    return option(
        1.0,
        "Cut the numbers of the new file at this quantile of them all, as sd-scripts' scripts do at 0.99; 1: "
        "not at all.",
        group="rank",
        low=0.05,
        high=1,
    )


def device() -> Any:
    return option("cpu", "What computes.", group="file", choices=("cpu", "cuda", "mps"))


def layers() -> Any:
    return option(False, "Tell of every layer, too.", group="file", label="Every layer")


def overwriting() -> Any:
    return option(False, "Replace a file of that name.", group="file")
