"""Runs inside a real WebUI: its interrogators, real but for weights that are not there. See probe.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from modules import deepbooru, shared
from PIL import Image
from probe_tools import check
from torch import nn

from lib_ti.core.errors import StudioError
from lib_ti.hosts.a1111 import A1111Host
from lib_ti.hosts.a1111_loan import kept
from lib_ti.hosts.base import Describing

SCORES = {"rating:safe": 0.99, "hat_(red)": 0.8, "1girl": 0.95, "bangs": 0.76, "grass": 0.6, "tree": 0.1}


class Tagger(nn.Module):
    """As sure of each tag as ``SCORES`` says, in a picture that is as red as this one."""

    def __init__(self) -> None:
        super().__init__()
        self.tags = list(SCORES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape == (1, 512, 512, 3)
        return torch.tensor([list(SCORES.values())]) * pixels[..., 0].max()


class Teller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def generate(self, pixels: torch.Tensor, **_given: Any) -> list[str]:
        assert pixels.shape == (1, 3, 384, 384)
        return [f"a picture with a redness of {pixels[0, 0].mean():.1f}"]


@contextmanager
def _weights() -> Iterator[None]:
    with kept(deepbooru.model, "model"), kept(shared.interrogator, "blip_model", "clip_model"):
        deepbooru.model.model = Tagger()
        shared.interrogator.blip_model, shared.interrogator.clip_model = Teller(), Teller()
        yield


@check
def describe(**asked: Any) -> str:
    with _weights(), A1111Host().describer(Describing(**asked)) as words:
        return words(Image.new("RGB", (64, 48), (255, 0, 0)))


@check
def describe_without_weights(by: str) -> str:
    """The machine of the tests has no network, nor has it these files."""
    try:
        with A1111Host().describer(Describing(by)):
            return "it was loaded"
    except StudioError as error:
        return str(error)


@check
def interrogator_options() -> dict[str, Any]:
    options = {name: value for name, value in shared.opts.data.items() if "deepbooru" in name}
    return {**options, "loaded": deepbooru.model.model is not None}
