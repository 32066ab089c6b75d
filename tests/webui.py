"""A real WebUI for the tests, with the built-in checkpoint, this extension and the probe."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ti.bench.webui import API, WebUI, find_webui, running_webui
from lib_ti.bench.webui_data import install_builtin, install_extension
from lib_ti.core.errors import BadInput, StudioError
from lib_ti.hosts.checkpoints import BUILTIN

ROOT = Path(__file__).parents[1]
JOB_SECONDS = 300
HOST_TESTS = ROOT / "tests" / "host"


def probe(webui: WebUI, name: str, /, **arguments: Any) -> Any:
    """What the function ``name`` of host/probe.py gives inside the WebUI."""
    answer = webui.call("/probe", {"name": name, "arguments": arguments})
    if "error" in answer:
        raise AssertionError(answer["error"])
    return answer["value"]


def wait(webui: WebUI, job: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The status of a job as soon as it is as wished."""
    end = time.monotonic() + JOB_SECONDS
    while time.monotonic() < end:
        status = webui.call(f"{API}/jobs/{job}")
        if until(status):
            return status
        time.sleep(0.1)
    raise AssertionError(f"{status}\n{webui.log_tail()}")


def ended(webui: WebUI, job: str) -> dict[str, Any]:
    return wait(webui, job, lambda status: not status["running"])


def write_data(data: Path) -> None:
    """A data folder of the WebUI: checkpoint, a VAE, a LoRA, a hypernetwork, the probe."""
    install_builtin(data)
    install_extension(data)
    models, extension = data / "models", data / "extensions" / "ti-studio-probe"
    for folder in ("VAE", "Lora", "hypernetworks"):
        (models / folder).mkdir()
    prefix = "first_stage_model."
    vae = {k.removeprefix(prefix): v * 1.1 for k, v in load_file(BUILTIN).items() if k.startswith(prefix)}
    save_file(vae, models / "VAE" / "other.safetensors")
    save_file(_lora(), models / "Lora" / "strong.safetensors")
    (extension / "scripts").mkdir(parents=True)
    probes = ("probe.py", "probe_cards.py", "probe_describing.py", "probe_families.py", "probe_networks.py")
    for name in ("at_start.py", *probes):
        shutil.copy(HOST_TESTS / name, extension / "scripts")
    for name in ("probe_tools.py", "tiny_models.py", "../networks/random_networks.py"):
        shutil.copy(HOST_TESTS / name, extension)  # what the scripts import


def _lora() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {  # module: (inputs, outputs)
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v": (64, 128),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (64, 256),
    }
    tensors = {}
    for name, (inputs, outputs) in shapes.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, inputs, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(outputs, 4, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
    return tensors


@contextmanager
def webui_with_everything(data: Path) -> Iterator[WebUI]:
    """The WebUI that the tests share; skips where none is installed, fails with its log where it fails."""
    try:
        find_webui()
    except BadInput as reason:
        pytest.skip(str(reason))
    write_data(data)
    try:
        with running_webui(data, ready="/probe") as webui:
            yield webui
    except StudioError as error:
        pytest.fail(str(error))
