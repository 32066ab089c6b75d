"""What merging into a checkpoint and extracting from two cost, on the true shapes of SD 1.5."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib_ti.bench.memory import PeakMemory
from lib_ti.formats.ldm import to_ldm
from lib_ti.formats.streaming import Plan, meta, write_streamed
from lib_ti.networks.algebra import LowRank
from lib_ti.networks.files import Network
from lib_ti.networks.layers import trained_layers
from lib_ti.networks.tools.combine import Term
from lib_ti.networks.tools.extract import Extraction, extract
from lib_ti.networks.tools.into_checkpoint import CheckpointMerge
from lib_ti.networks.tools.saving import save_network
from lib_ti.networks.tools.stored import Checkpoint, open_checkpoint

log = logging.getLogger(__name__)


def sd15_plan(dtype: torch.dtype) -> Plan:
    """The tensors of an SD 1.5 checkpoint, 1066 million numbers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
        )
    state = to_ldm(unet.state_dict(), vae.state_dict(), text.state_dict())
    return {name: meta(t.shape, dtype if t.is_floating_point() else t.dtype) for name, t in state.items()}


def write_random(path: Path, plan: Plan) -> None:
    """Weights of the size that trained ones have."""
    generator = torch.Generator().manual_seed(0)

    def read(name: str) -> torch.Tensor:
        entry = plan[name]
        if not entry.is_floating_point():
            return torch.zeros(entry.shape, dtype=entry.dtype)
        return (torch.randn(entry.shape, generator=generator) * 0.03).to(entry.dtype)

    write_streamed(path, plan, read, {})


def random_lora(checkpoint: Checkpoint, rank: int) -> Network:
    generator = torch.Generator().manual_seed(1)
    updates = {}
    for name, layer in trained_layers(checkpoint.layers, conv=True).items():
        out, *others = checkpoint.shape(layer)
        up = torch.randn(out, rank, *(1 for _ in others[1:]), generator=generator) * 0.01
        updates[name] = LowRank(up=up, down=torch.randn(rank, *others, generator=generator) * 0.1)
    return Network("random", checkpoint.family, updates)


def bench_lora(rank: int, dtype: torch.dtype, device: torch.device, *, conv: bool) -> dict[str, Any]:
    """A C3Lier of ``rank`` merged into a checkpoint, and extracted again; seconds, and peak memory above
    what was there before.

    ``conv``: 3x3 convolutions are extracted, too.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, new = folder / "base.safetensors", folder / "new.safetensors"
        plan = sd15_plan(dtype)
        write_random(base, plan)
        network = random_lora(open_checkpoint(base), rank)

        def merge() -> None:
            CheckpointMerge(open_checkpoint(base), [Term(network, 1.0)], device=device).write(new)

        def pull() -> None:
            extraction = Extraction(rank, rank if conv else 0, min_diff=0.0)
            found = extract(open_checkpoint(base), open_checkpoint(new), extraction, device)
            save_network(folder / "lora.safetensors", found.updates, torch.float16, {})

        largest = max(entry.numel() for entry in plan.values())
        return {
            "rank": rank,
            "conv": conv,
            "dtype": str(dtype),
            "checkpoint_mb": round(base.stat().st_size / 2**20, 1),
            "largest_tensor_mb": round(largest * dtype.itemsize / 2**20, 1),
            "modules": len(network.updates),
            "merge": _measured("merge", merge, device),
            "extract": _measured("extract", pull, device),
        }


def _measured(name: str, run: Callable[[], None], device: torch.device) -> dict[str, float]:
    memory = PeakMemory(device)
    memory.start()
    started, worked = time.perf_counter(), time.process_time()
    run()
    figures = {
        "seconds": round(time.perf_counter() - started, 2),
        "processor_seconds": round(time.process_time() - worked, 2),
        "peak_mb": round(memory.bytes() / 2**20, 1),
    }
    log.info("%s: %s", name, figures)  # the next one may take minutes
    return figures
