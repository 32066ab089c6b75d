"""Our step against the trainer that AUTOMATIC1111's WebUI brings, both inside a real one: time and memory."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

from lib_ti.bench.memory import RESET_PEAK
from lib_ti.bench.step import random_sd15
from lib_ti.bench.webui import Refused, WebUI, find_webui, running_webui
from lib_ti.bench.webui_data import install_clip, install_extension
from lib_ti.core.errors import BadInput, StudioError
from lib_ti.formats.ldm import ldm_config, ldm_yaml, to_ldm
from lib_ti.hosts.checkpoints import Components, load_components

log = logging.getLogger(__name__)

PICTURES = 4
GB = 10**9


def whole_sd15() -> Components:
    """Stable Diffusion 1.5 with random weights and a VAE of the true size."""
    components = random_sd15()
    # Emphasis divides by the mean of what the text encoder says, which must not be 0.
    torch.nn.init.normal_(components.text_encoder.text_model.final_layer_norm.bias, -0.1, 0.3)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    )
    return dataclasses.replace(components, vae=vae)


def write_checkpoint(components: Components, models: Path) -> Path:
    """The file, in a WebUI's ``models`` folder, in half precision, with all it needs to be read offline."""
    unet, text_encoder = components.unet, components.text_encoder
    state = to_ldm(unet.state_dict(), components.vae.state_dict(), text_encoder.state_dict())
    plan = ldm_config(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        heads=unet.config.attention_head_dim,
        image_size=unet.config.sample_size,
        clip_version=str(install_clip(models, text_encoder.config)),
    )
    file = models / "Stable-diffusion" / "bench.safetensors"
    file.parent.mkdir()
    file.with_suffix(".yaml").write_text(ldm_yaml(plan))
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, file)
    return file


def write_model(data: Path, arch: str) -> Path:
    """The checkpoint file of ``arch`` in the WebUI's data folder: "sd15", random weights, or "tiny"."""
    return write_checkpoint(whole_sd15() if arch == "sd15" else load_components("builtin"), data / "models")


def install_script(data: Path) -> None:
    """This extension, and the script that measures, among the WebUI's own."""
    install_extension(data)
    scripts = data / "extensions" / "ti-studio-bench" / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("inside_webui.py"), scripts)


def _write_data(data: Path, arch: str, size: int) -> None:
    """A data folder of the WebUI: checkpoint, training pictures, this extension, the script that measures."""
    write_model(data, arch)
    install_script(data)
    (data / "embeddings").mkdir()
    (data / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        noise = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data / "pictures" / f"picture-{number}.png")


@contextmanager
def fresh_webui(data: Path) -> Iterator[WebUI]:
    """A new process, its checkpoint loaded. What it refuses is raised with the end of its log."""
    with running_webui(data, ready="/bench") as webui:
        try:
            yield webui
        except Refused as error:
            raise StudioError(f"{error}\n{webui.log_tail()}") from error


def bench_webui(arch: str, size: int, pairs: int) -> dict[str, Any]:
    """Seconds of both trainers' steps, in turn in one process, and the memory each needs in its own.

    ``arch``: "sd15", random weights, or "tiny", the built-in model. Memory: the peak of a whole short
    training above what the process held after the load, in GB of 10^9 bytes.
    Raises BadInput where no WebUI is installed, StudioError where it fails.
    """
    find_webui()  # before minutes go into a checkpoint
    if not RESET_PEAK.exists():
        raise BadInput("this system does not count a process's peak memory; measure on Linux.")
    with TemporaryDirectory(prefix="ti-studio-bench-") as folder:
        data = Path(folder)
        log.info("writing a checkpoint into %s", data)
        _write_data(data, arch, size)
        asked = {"images": str(data / "pictures"), "size": size}
        log.info("steps of both, in turn")
        with fresh_webui(data) as webui:
            versions = webui.call("/bench")["versions"]
            seconds = webui.call("/bench/pairs", {**asked, "count": pairs})
        log.info("memory of the built-in trainer")
        with fresh_webui(data) as webui:
            builtin = webui.call("/bench/builtin", asked)
        log.info("memory of ours")
        with fresh_webui(data) as webui:
            ours = webui.call("/bench/ours", {**asked, "data": str(data)})
    return {
        "arch": arch,
        "size": size,
        "pairs": pairs,
        **compare(seconds),
        "memory_builtin_gb": round(builtin["peak"] / GB, 3),
        "memory_ours_gb": round(ours["peak"] / GB, 3),
        "memory_saved_gb": round((builtin["peak"] - ours["peak"]) / GB, 3),
        "saved_activations_gb": round(ours["saved"] / GB, 3),
        "versions": versions,
    }


def compare(seconds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Medians, and how many times faster ours is; ``seconds``: of the built-in step and of ours."""
    ratios = [builtin / ours for builtin, ours in seconds]
    return {
        "builtin_seconds": round(median(builtin for builtin, _ in seconds), 4),
        "ours_seconds": round(median(ours for _, ours in seconds), 4),
        "ratio": round(median(ratios), 3),
        "ratio_quartiles": [round(q, 3) for q in quantiles(ratios, n=4)],
    }
