"""Runs inside a real WebUI as an extension's script: measures its own trainer and networks, and ours.

Installed by ``webui_step``. Over HTTP: pairs of steps in one process; the memory of either trainer, each to
be asked in a process of its own; pictures with networks of either kind.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from inspect import signature
from pathlib import Path
from typing import Any
from unittest.mock import patch

import modules.textual_inversion.ui
import torch
from fastapi import Body, FastAPI
from modules import launch_utils, script_callbacks, sd_hijack, sd_hijack_checkpoint, shared
from modules.call_queue import queue_lock
from modules.processing import StableDiffusionProcessingTxt2Img, process_images
from modules.textual_inversion.learn_schedule import LearnRateScheduler
from modules.textual_inversion.textual_inversion import Embedding, train_embedding

from lib_ti import jobs
from lib_ti.bench.memory import PeakMemory, saved_activations
from lib_ti.core.loop import Loop
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.data.samples import LatentCache, TrainingSet
from lib_ti.hosts.a1111 import A1111Host
from lib_ti.methods.starts import initial_vectors
from lib_ti.methods.textual_inversion import TextualInversion
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.networks import prompt_layers

BUILTIN, OURS = "zqx-builtin", "zqx-ours"
MEMORY_STEPS = 3


@contextmanager
def mended() -> Iterator[None]:
    """What breaks the built-in trainer of 1.10.1, out of its way."""
    with (
        # Its batch sampler hands its data to torch's base class, which takes none on current torch.
        patch.object(torch.utils.data.Sampler, "__init__", lambda self, data_source=None: None),
        # With both saving intervals 0 it makes no folder for its settings, and fails to write them there.
        patch.dict(shared.opts.data, save_training_settings_to_txt=False),
    ):
        yield


def train_builtin(images: str, size: int, steps: int) -> None:
    """What a click on "Train Embedding" does: the Train tab's own values, without previews and copies."""
    settings = InversionSettings(name=BUILTIN)
    ((_, vectors),) = initial_vectors(A1111Host(), settings).items()
    # Made by hand: the file of its own "Create embedding" is refused by its own reader on current torch.
    embedding = Embedding(vectors, BUILTIN, step=0)
    embedding.vectors, embedding.shape = vectors.shape
    sd_hijack.model_hijack.embedding_db.register_embedding(embedding, shared.sd_model)
    # By name, since the page passes them by position; the parameters of previews stay None.
    arguments = dict.fromkeys(signature(train_embedding).parameters) | {
        "id_task": "",
        "embedding_name": BUILTIN,
        "learn_rate": "0.005",
        "batch_size": 1,
        "gradient_step": 1,
        "data_root": images,
        "log_directory": "",
        "training_width": size,
        "training_height": size,
        "varsize": False,
        "steps": steps,
        "clip_grad_mode": "disabled",
        "clip_grad_value": "0.1",
        "shuffle_tags": False,
        "tag_drop_out": 0,
        "latent_sampling_method": "once",
        "use_weight": False,
        "create_image_every": 0,
        "save_embedding_every": 0,
        "template_filename": "style_filewords.txt",
        "save_image_with_stored_embedding": True,
        "preview_from_txt2img": False,
    }
    with mended():
        modules.textual_inversion.ui.train_embedding(*arguments.values())
    if embedding.step != steps:  # it reports its errors to the log and returns as if nothing were wrong
        raise RuntimeError(f"the built-in trainer gave up at step {embedding.step} of {steps}")


class OurTrainer:
    """Our trainer between two of its steps; latents cached, as they are in a job."""

    def __init__(self, size: int) -> None:
        self.host = A1111Host()
        settings = InversionSettings(name=OURS, accumulation=1)
        side = size // self.host.info.pixels_per_latent
        shape = (1, 1, self.host.info.latent_channels, side, side)
        cache = LatentCache(torch.randn(shape), torch.zeros(shape))
        samples = TrainingSet(cache, [""], ["a photo of [name]"], OURS, settings)
        with self.host.lend():
            self.method = TextualInversion(self.host, settings, samples)
        self.loop = Loop(self.method, parse_learning_rate("0.005"), None)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """In the loan that a job takes once, before its first step."""
        with self.host.lend():
            self.host.set_embeddings({OURS: self.method.vectors})
            yield

    def step(self) -> None:
        self.loop.take_step()
        self.loop.apply_gradients()

    def loss(self) -> torch.Tensor:
        (batch,) = self.method.draw(1)
        return self.method.losses(batch)


@contextmanager
def as_in_generation() -> Iterator[None]:
    """Within the built-in training: the WebUI without what that training has switched for itself."""
    sd_hijack_checkpoint.remove()
    sd_hijack.apply_optimizations()
    try:
        yield
    finally:
        sd_hijack.undo_optimizations()
        sd_hijack_checkpoint.add()


def measure_pairs(images: str, size: int, pairs: int) -> list[tuple[float, float]]:
    """Seconds of the built-in step and of ours, ``pairs`` times after one for warming up.

    Its step: all from one call of the schedule's ``apply``, the first in each of its iterations, to the next
    (condition, loss, backward, optimizer, its records, the next batch). Ours: a whole optimizer step of the
    loop, taken between two of its iterations.
    """
    ours = OurTrainer(size)
    seconds: list[tuple[float, float]] = []
    started = 0.0
    apply = LearnRateScheduler.apply

    def timed(scheduler: LearnRateScheduler, optimizer: torch.optim.Optimizer, step: int) -> None:
        nonlocal started
        if step > 0:
            builtin = time.perf_counter() - started
            with as_in_generation(), ours.at_work():
                started = time.perf_counter()
                ours.step()
                seconds.append((builtin, time.perf_counter() - started))
        started = time.perf_counter()
        apply(scheduler, optimizer, step)

    with patch.object(LearnRateScheduler, "apply", timed):
        train_builtin(images, size, pairs + 1)
    return seconds[1:]


def train_ours(images: str, data: Path, size: int) -> None:
    """A job as every program starts it."""
    settings = InversionSettings(
        name=OURS, images=images, width=size, height=size, steps=MEMORY_STEPS, accumulation=1
    )
    quiet: Any = {"report": lambda event: None, "stopped": lambda: False}
    jobs.start(A1111Host(), settings, folders=jobs.folders_under(data), model="", **quiet)


def peak_bytes(run: Callable[[], None]) -> float:
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    run()
    return memory.bytes()


def draw(prompt: str, size: int, steps: int) -> dict[str, Any]:
    """Seconds of a picture, its network's loading among them, and of each call of the U-Net for it."""
    unet, began, calls = shared.sd_model.model.diffusion_model, 0.0, list[float]()

    def before(*_: Any) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(*_: Any) -> None:
        calls.append(time.perf_counter() - began)

    asked = StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        prompt=prompt,
        seed=1,
        steps=steps,
        width=size,
        height=size,
        sampler_name="Euler",
        do_not_save_samples=True,
        do_not_save_grid=True,
    )
    hooks = unet.register_forward_pre_hook(before), unet.register_forward_hook(after)
    try:
        started = time.perf_counter()
        with closing(asked):
            process_images(asked)
        return {"seconds": time.perf_counter() - started, "calls": calls}
    finally:
        for hook in hooks:
            hook.remove()


def draw_in_turn(turns: dict[str, str], size: int, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Every prompt of ``turns`` in every round; a short round before them warms up."""
    drawn = []
    for number in range(rounds + 1):
        found = {}
        for turn, prompt in turns.items():
            # Second weights only where nothing is cheap enough to be added, or for no layer at all.
            dear = math.inf if turn == "added" else prompt_layers._DEAR
            with patch.object(prompt_layers, "_DEAR", dear):
                found[turn] = draw(prompt, size, steps if number else 2)
        drawn.append(found)
    return drawn[1:]


def versions() -> dict[str, str]:
    return {"webui": launch_utils.git_tag(), "python": platform.python_version(), "torch": torch.__version__}


def serve(_demo: Any, app: FastAPI) -> None:
    @app.get("/bench")
    def ready() -> dict[str, Any]:
        return {"model": shared.sd_model.sd_checkpoint_info.name, "versions": versions()}

    @app.post("/bench/pairs")
    def pairs(images: str = Body(), size: int = Body(), count: int = Body()) -> Any:
        with queue_lock:
            return measure_pairs(images, size, count)

    @app.post("/bench/networks")
    def networks(
        turns: dict[str, str] = Body(),  # noqa: B008
        size: int = Body(),
        steps: int = Body(),
        rounds: int = Body(),
    ) -> Any:
        with queue_lock:
            return draw_in_turn(turns, size, steps, rounds)

    @app.post("/bench/builtin")
    def builtin(images: str = Body(), size: int = Body()) -> Any:
        with queue_lock:
            return {"peak": peak_bytes(lambda: train_builtin(images, size, MEMORY_STEPS))}

    @app.post("/bench/ours")
    def ours(images: str = Body(), data: Path = Body(), size: int = Body()) -> Any:  # noqa: B008
        with queue_lock:
            peak = peak_bytes(lambda: train_ours(images, data, size))
            trainer = OurTrainer(size)
            with trainer.at_work():
                return {"peak": peak, "saved": saved_activations(shared.sd_model, trainer.loss)}


script_callbacks.on_app_started(serve)
