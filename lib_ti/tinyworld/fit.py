"""The loop that fits the networks of the tiny world: resumable, logged, the same on any device."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.formats.pickles import read_torch_pickle

log = logging.getLogger(__name__)

SAVE_SECONDS = 600.0

Module = TypeVar("Module", bound=nn.Module)


def generator_at(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step of one process: a resumed run draws the same."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank)


def share_of(batch: int) -> int:
    """This process's part of a batch."""
    return batch // (dist.get_world_size() if dist.is_initialized() else 1)


def cosine(step: int, steps: int, warmup: int = 200) -> float:
    """Share of the learning rate at ``step``: linear warm-up, then half a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def read_saved(path: Path) -> dict[str, Any]:
    """What ``fit`` or ``prepare`` saved there, on the CPU; read as any stranger's file is."""
    content = read_torch_pickle(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path} is not what this program saved; remove it.")
    return content


def fit(
    module: Module,
    loss_at: Callable[[int, torch.Generator], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    folder: Path,
    seed: int,
    ema: float = 0.999,
    clip: float = 1.0,
) -> Module:
    """Minimise ``loss_at(step, generator)`` over ``module``; returns its exponential moving average.

    Every ten minutes the whole state goes to ``folder/state.pt`` (temporary name, then renamed) and
    the average to ``folder/average.pt``; a killed run goes on from there and ends the same.
    ``folder/log.jsonl`` holds step, loss and seconds. Under torchrun, gradients are averaged over
    the processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    average = copy.deepcopy(module).requires_grad_(False)
    state_file = folder / "state.pt"
    first, seconds = 0, 0.0
    if state_file.exists():
        state = read_saved(state_file)
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
        log.info("resumed at step %d of %d", first, steps)
    chief = not dist.is_initialized() or dist.get_rank() == 0
    started = saved = time.monotonic()
    recent: list[torch.Tensor] = []

    def save(step: int) -> None:
        state = {
            "module": module.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds + time.monotonic() - started,
        }
        for name, value in (("state.pt", state), ("average.pt", state["average"])):
            torch.save(value, folder / (name + ".tmp"))
            (folder / (name + ".tmp")).replace(folder / name)

    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * cosine(step, steps)
        loss = loss_at(step, generator_at(seed, step))
        loss.backward()
        if dist.is_initialized():
            _average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
            for kept, new in zip(average.buffers(), module.buffers(), strict=True):
                kept.copy_(new)
        recent.append(loss.detach())
        if chief and (step + 1) % 100 == 0:
            line = {
                "step": step + 1,
                "loss": round(float(torch.stack(recent).mean()), 6),
                "seconds": round(seconds + time.monotonic() - started, 1),
            }
            recent.clear()
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            log.info(
                "%s step %d/%d loss %.5f, %.0f s",
                folder.name,
                line["step"],
                steps,
                line["loss"],
                line["seconds"],
            )
        if chief and time.monotonic() - saved > SAVE_SECONDS:
            save(step + 1)
            saved = time.monotonic()
    if chief:
        save(steps)
    return average
