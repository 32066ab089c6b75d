"""What every test has: no network, a modest number of threads, the real tokenizer."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any

# Read by huggingface_hub at its import, so before anything that imports it.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read by Intel's mathematics at its first use, here and in a WebUI that is started: on its latest processors
# it gives the same bits for the same numbers only where it is told to, and tests compare bits.
os.environ.setdefault("MKL_CBWR", "AUTO")

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import CLIPTokenizer

    from lib_ti.bench.webui import WebUI
    from lib_ti.hosts.standalone import StandaloneHost
    from lib_ti.workshop import Workshop
    from tests.place import StandalonePlace

# Tiny models lose more by waiting for threads than they win by having many.
torch.set_num_threads(min(2, torch.get_num_threads()))


def is_local(family: int, address: Any) -> bool:
    """Whether ``address``, as ``socket.connect`` takes it, stays on this machine."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails, also where the machine has one."""

    def guarded(name: str):
        connect = getattr(socket.socket, name)

        def refuse_strangers(self: socket.socket, address: Any) -> Any:
            if not is_local(self.family, address):
                raise RuntimeError(f"a test reached for the network: {address}")
            return connect(self, address)

        return refuse_strangers

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name))


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    """The CLIP tokenizer of Stable Diffusion 1."""
    from lib_ti.hosts.tokenizer import build_clip_tokenizer

    return build_clip_tokenizer()


@pytest.fixture(scope="session")
def host() -> StandaloneHost:
    """The standalone host with the built-in checkpoint; a test leaves it as it found it."""
    from lib_ti.hosts.standalone import StandaloneHost

    return StandaloneHost.load("builtin", "cpu")


@pytest.fixture(scope="session")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """One WebUI for all tests that need one; a test leaves it as it found it."""
    from tests.webui import webui_with_everything

    with webui_with_everything(tmp_path_factory.mktemp("webui")) as webui:
        yield webui


@pytest.fixture
def place(host: StandaloneHost, tmp_path: Path) -> StandalonePlace:
    """A program that lends the built-in model."""
    from tests.place import StandalonePlace

    return StandalonePlace(host, tmp_path / "data")


@pytest.fixture
def workshop(place: StandalonePlace) -> Iterator[Workshop]:
    """Its jobs end with the test."""
    from lib_ti.workshop import Workshop
    from tests.place import ended

    workshop = Workshop(place)
    yield workshop
    for job in workshop.jobs():
        if workshop.status(job).running:
            workshop.stop(job)
        ended(workshop, job)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Of a job of a second, on three pictures of noise."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    return {
        "name": "zqx-cat",
        "images": str(folder),
        "steps": 20,
        "accumulation": 1,
        "preview_every": 10,
        "preview_count": 1,
        "preview_steps": 2,
        "copy_every": 10,
    }


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """A folder with four small pictures to train with."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        blocks = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST)
        picture.save(folder / f"a red thing {number}.png")
    return str(folder)
