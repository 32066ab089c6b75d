"""What an optimizer step costs against its floor, on the real architecture with random weights.

The floor of an exact step: text encoder forward and backward to the vectors, one U-Net forward and
backward to the condition, everything frozen, bare torch. Ours: a whole optimizer step of the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lib_ti.bench.memory import PeakMemory
from lib_ti.core.loop import Loop
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.data.samples import LatentCache, TrainingSet
from lib_ti.hosts.base import Economy
from lib_ti.hosts.checkpoints import Components, load_components
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.hosts.tokenizer import build_clip_tokenizer
from lib_ti.job_memory import Memory
from lib_ti.methods.textual_inversion import TextualInversion
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.tinyworld.train_denoiser import new_scheduler

TRIGGER = "zqx-bench"


def fill_zeros(module: nn.Module, generator: torch.Generator) -> None:
    """Give weights that start at zero some noise: with them, no gradient would reach the prompt."""
    for parameter in module.parameters():
        if parameter.dim() > 1 and not parameter.any():
            fan_in = parameter[0].numel()
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise * 0.6 / fan_in**0.5)


def random_sd15() -> Components:
    """The true architecture of Stable Diffusion 1.5 (860 M U-Net) with random weights."""
    torch.manual_seed(0)
    text_config = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
    )
    with torch.no_grad():
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        fill_zeros(unet, torch.Generator().manual_seed(1))
        # The bench never encodes pictures: a small VAE in place of the real one saves its memory.
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32,) * 4,
        )
    return Components(
        unet=unet,
        vae=vae,
        text_encoder=CLIPTextModel(text_config),
        tokenizer=build_clip_tokenizer(),
        family="sd1",
        prediction="eps",
        alphas_cumprod=new_scheduler().alphas_cumprod,
        name="random-sd15",
        native_size=512,
        file=None,
    )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bench_step(
    arch: str, size: int, pairs: int, device: str = "", vectors: int = 2, checkpointing: bool = False
) -> dict[str, Any]:
    """Seconds and memory of our step and of the floor, ``pairs`` of each, in alternating order, and what
    a job would say it needs in memory. With checkpointing the floor has it too."""
    components = random_sd15() if arch == "sd15" else load_components("builtin")
    host = StandaloneHost(components, torch.device(device or "cpu"))
    side = size // host.info.pixels_per_latent
    shape = (1, 1, host.info.latent_channels, side, side)
    generator = torch.Generator().manual_seed(0)
    cache = LatentCache(torch.randn(shape, generator=generator), torch.zeros(shape))
    settings = InversionSettings(
        name=TRIGGER,
        vectors=vectors,
        init_text="dog",
        steps=10**6,
        accumulation=1,
        checkpointing=checkpointing,
    )
    lines = ["a photo of " + TRIGGER]
    with host.lend():
        host.economise(Economy(checkpointing=checkpointing))
        samples = TrainingSet(cache, [""], lines, TRIGGER, settings)
        loop = Loop(TextualInversion(host, settings, samples), parse_learning_rate("0.005"), None)

        foretold = Memory(host, settings, loop, lambda sentence: None).foretell() or float("nan")

        def ours() -> None:
            loop.take_step()
            loop.apply_gradients()

        floor = _Floor(components, host, cache.mean[0], lines[0], vectors)
        runs = {"floor": floor.step, "step": ours}
        seconds, peaks = _interleave(runs, pairs, host.info.device)
        text = [floor.text_seconds() for _ in range(5)]
    ratios = [s / f for s, f in zip(seconds["step"], seconds["floor"], strict=True)]
    return {
        "arch": arch,
        "size": size,
        "pairs": pairs,
        "floor_s": round(median(seconds["floor"]), 4),
        "step_s": round(median(seconds["step"]), 4),
        "ratio": round(median(ratios), 4),
        "ratio_quartiles": [round(q, 4) for q in quantiles(ratios, n=4)],
        "text_share": round(median(text) / median(seconds["floor"]), 4),
        "floor_peak_mb": round(median(peaks["floor"]), 1),
        "step_peak_mb": round(median(peaks["step"]), 1),
        "foretold_peak_mb": round(foretold / 2**20, 1),
    }


def _interleave(
    runs: dict[str, Callable[[], None]], pairs: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and peak megabytes of each run; the order flips with every pair."""
    memory = PeakMemory(device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # warm-up
    for pair in range(pairs):
        order = list(runs) if pair % 2 == 0 else list(reversed(runs))
        for name in order:
            memory.start()
            _synchronise(device)
            started = time.perf_counter()
            runs[name]()
            _synchronise(device)
            seconds[name].append(time.perf_counter() - started)
            peaks[name].append(memory.bytes() / 2**20)
    return seconds, peaks


class _Floor:
    """Bare torch: the least an exact step must do."""

    def __init__(
        self, components: Components, host: StandaloneHost, latents: torch.Tensor, prompt: str, vectors: int
    ) -> None:
        self.text, self.unet = components.text_encoder, components.unet
        device = host.info.device
        ids = host.tokenize(prompt.replace(TRIGGER, ""))
        row = [49406, *ids, *[0] * vectors, 49407]
        self.ids = torch.tensor([row + [49407] * (77 - len(row))], device=device)
        self.offset = 1 + len(ids)
        self.vectors = host.token_vectors("clip_l")[:vectors].clone().requires_grad_()
        self.latents = latents.to(device)
        self.noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(device)
        self.timestep = torch.tensor([500], device=device)

    def _encode(self) -> torch.Tensor:
        def splice(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            after = output[:, self.offset + len(self.vectors) :]
            return torch.cat([output[:, : self.offset], self.vectors[None], after], 1)

        handle = self.text.get_input_embeddings().register_forward_hook(splice)
        try:
            return self.text(self.ids).last_hidden_state
        finally:
            handle.remove()

    def step(self) -> None:
        predicted = self.unet(self.latents, self.timestep, self._encode()).sample
        (predicted - self.noise).pow(2).mean().backward()
        self.vectors.grad = None

    def text_seconds(self) -> float:
        """The text encoder's part alone, forward and backward."""
        started = time.perf_counter()
        self._encode().sum().backward()
        self.vectors.grad = None
        return time.perf_counter() - started
