"""A real WebUI for the tests, with the built-in checkpoint, this extension and the probe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lib_ti.bench.webui import WebUI, find_webui, running_webui
from lib_ti.core.errors import BadInput, StudioError
from lib_ti.hosts.tokenizer import write_tokenizer_files

ROOT = Path(__file__).parents[1]
BUILTIN = ROOT / "lib_ti" / "tinyworld" / "weights" / "tinyworld.safetensors"
CLIP = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}


def probe(webui: WebUI, name: str, **arguments: Any) -> Any:
    """What the function ``name`` of host/probe.py gives inside the WebUI."""
    answer = webui.call("/probe", {"name": name, "arguments": arguments})
    if "error" in answer:
        raise AssertionError(answer["error"])
    return answer["value"]


def write_data(data: Path) -> None:
    """A data folder of the WebUI: checkpoint, a VAE, a LoRA, a hypernetwork, the probe."""
    models = data / "models"
    checkpoints, extension = models / "Stable-diffusion", data / "extensions" / "ti-studio-probe"
    for folder in (checkpoints, models / "VAE", models / "Lora", models / "hypernetworks"):
        folder.mkdir(parents=True)
    shutil.copy(BUILTIN, checkpoints)
    clip = models / "clip"
    write_tokenizer_files(clip)
    (clip / "config.json").write_text(json.dumps({"model_type": "clip_text_model", **CLIP}))
    plan = yaml.safe_load(BUILTIN.with_suffix(".yaml").read_text())
    plan["model"]["params"]["cond_stage_config"]["params"]["version"] = str(clip)
    (checkpoints / BUILTIN.name).with_suffix(".yaml").write_text(yaml.safe_dump(plan))

    prefix = "first_stage_model."
    vae = {k.removeprefix(prefix): v * 1.1 for k, v in load_file(BUILTIN).items() if k.startswith(prefix)}
    save_file(vae, models / "VAE" / "other.safetensors")
    save_file(_lora(), models / "Lora" / "strong.safetensors")
    (extension / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "host" / "probe.py", extension / "scripts" / "probe.py")
    (extension.parent / "ti-studio").symlink_to(ROOT, target_is_directory=True)


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


@pytest.fixture(scope="session")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """One WebUI for all tests that need one; a test leaves it as it found it."""
    try:
        find_webui()
    except BadInput as reason:
        pytest.skip(str(reason))
    data = tmp_path_factory.mktemp("webui")
    write_data(data)
    try:
        with running_webui(data, ready="/probe") as webui:
            yield webui
    except StudioError as error:
        pytest.fail(str(error))
