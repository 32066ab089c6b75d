"""A real WebUI as a program of its own, with the built-in checkpoint and the probe as an extension."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lib_ti.hosts.tokenizer import write_tokenizer_files

ROOT = Path(__file__).parents[2]
BUILTIN = ROOT / "lib_ti" / "tinyworld" / "weights" / "tinyworld.safetensors"
CLIP = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
FLAGS = [
    "--skip-prepare-environment",
    "--skip-torch-cuda-test",
    "--skip-version-check",
    "--no-download-sd-model",
    "--do-not-download-clip",
    "--use-cpu=all",
    "--no-half",
    "--precision=full",
    "--nowebui",
]
START_SECONDS = 300


@dataclass
class WebUI:
    """The running program, over HTTP."""

    url: str
    data: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def checkpoint(self) -> Path:
        return self.data / "models" / "Stable-diffusion" / BUILTIN.name

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}\n{self.log_tail()}") from error

    def probe(self, name: str, **arguments: Any) -> Any:
        """What the function ``name`` of probe.py gives inside the WebUI."""
        answer = self.post("/probe", {"name": name, "arguments": arguments})
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["value"]

    def txt2img(self, prompt: str, **more: Any) -> bytes:
        """The pixels of one picture, as PNG."""
        body = {"prompt": prompt, "seed": 7, "steps": 4, "width": 64, "height": 64, "cfg_scale": 5, **more}
        return base64.b64decode(self.post("/sdapi/v1/txt2img", body)["images"][0])

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def find_webui() -> Path:
    """Where the WebUI is; skips the test where there is none."""
    named = os.environ.get("WEBUI_DIR")
    folder = Path(named or "~/stable-diffusion-webui").expanduser()
    if not (folder / "launch.py").is_file():
        pytest.skip(f"no WebUI in {folder}; name one in WEBUI_DIR to run this")
    return folder


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
    shutil.copy(Path(__file__).with_name("probe.py"), extension / "scripts" / "probe.py")


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
    """One WebUI for all tests of this folder; a test leaves it as it found it."""
    folder = find_webui()
    python = Path(os.environ.get("WEBUI_PYTHON", folder / "venv" / "bin" / "python"))
    data = tmp_path_factory.mktemp("webui")
    write_data(data)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = data / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-u", "launch.py", *FLAGS, f"--port={port}", f"--data-dir={data}"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = WebUI(f"http://127.0.0.1:{port}", data, process, log)
    try:
        _wait(running)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(webui: WebUI) -> None:
    """Until the WebUI answers; its log is shown where it does not."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and webui.process.poll() is None:
        try:
            urllib.request.urlopen(webui.url + "/probe", timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return
    pytest.fail(f"the WebUI did not start:\n{webui.log_tail()}")
