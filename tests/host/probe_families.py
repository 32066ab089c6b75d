"""Runs inside a real WebUI as an extension's script: what is asked of every family of checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import ldm.modules.distributions.distributions
import sgm.modules.distributions.distributions
import tiny_models
import torch
from modules import processing, sd_hijack, sd_models, shared
from modules.textual_inversion.textual_inversion import create_embedding_from_data
from probe_tools import check, digest, live, noise_of, pixels_of, request, surroundings
from random_networks import random_updates
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_ti.core.errors import BadInput
from lib_ti.core.memory import record
from lib_ti.hosts.a1111 import A1111Host
from lib_ti.hosts.a1111_model import text_models
from lib_ti.hosts.base import Economy, SampleRequest
from lib_ti.networks import Network, attach
from lib_ti.networks.layers import find_layers, find_stored_layers, trained_layers

STEP = 0.005  # of a finite difference, along vectors of length 0.2
DATABASE = sd_hijack.model_hijack.embedding_db

tiny_models.register_architectures(Path(__file__).parents[1] / "open_clip")


@check
def write_checkpoint(checkpoint: str) -> None:
    models = Path(sd_models.model_path)
    tiny_models.write_checkpoint(checkpoint, models, models.parent / "clip")


@check
def gradients(prompt: str) -> dict[str, list[list[float]]]:
    """Of every vector: the gradient's size by autograd, and by central differences along it."""
    host = A1111Host()
    vectors = live(host)
    asked = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(6)).double()
    with host.lend():
        host.set_embeddings({"zqx": vectors})

        def answer() -> torch.Tensor:
            return (noise_of(host, prompt).double() * asked).sum()

        answer().backward()
        sizes: dict[str, list[list[float]]] = {}
        with torch.no_grad():
            for encoder, tensor in vectors.items():
                sizes[encoder] = []
                for row, gradient in zip(tensor, tensor.grad, strict=True):
                    start, step = row.clone(), STEP * gradient / gradient.norm()
                    row.copy_(start + step)
                    above = answer()
                    row.copy_(start - step)
                    below = answer()
                    row.copy_(start)
                    sizes[encoder].append([float(gradient.norm()), float(above - below) / (2 * STEP)])
    return sizes


@check
def answers(given: str, out: str, prompts: list[str]) -> None:
    """The seam's answers to what the file ``given`` holds, with live vectors for each text encoder."""
    tensors, host = load_file(given), A1111Host()
    vectors = {name: tensors[name].requires_grad_() for name in host.info.text_encoders}
    with host.lend():
        host.set_embeddings({"zqx": vectors})
        condition = host.encode_prompts(prompts)
        noise = host.predict_noise(tensors["latents"], tensors["timesteps"], condition)
        noise.square().mean().backward()
        encoded = host.encode_images(tensors["pixels"])
        found = {
            "hidden": condition.hidden,
            "pooled": condition.pooled,
            "noise": noise,
            "mean": encoded.mean,
            "std": encoded.std,
            "pixels": host.decode(tensors["latents"]),
            **{f"{name}_grad": tensor.grad for name, tensor in vectors.items()},
        }
        save_file({name: value.detach().contiguous() for name, value in found.items()}, out)


@check
def as_generated(prompt: str, width: int, height: int) -> dict[str, Any]:
    """What txt2img gives the U-Net when the embedding is a stored one, against a loan's; differences."""
    host = A1111Host()
    vectors = {name: tensor.detach() for name, tensor in live(host).items()}
    (alone, *others) = vectors.values()
    stored = create_embedding_from_data(vectors if others else {"*": alone}, "zqx")
    with crop(top=8, left=16), means_drawn():
        DATABASE.register_embedding(stored, shared.sd_model)
        latents, timestep, told, answer = first_question(prompt, width, height)
        DATABASE.register_embedding_by_name(None, shared.sd_model, "zqx")
        # Told of no embedding, the words of its name.
        without = first_question(prompt, width, height)[-1]
        with host.lend(), torch.no_grad(), asked() as questions:
            host.set_embeddings({"zqx": vectors})
            noise = host.predict_noise(latents, timestep, host.encode_prompts([prompt]))
    ((_, _, told_by_us, _),) = questions
    return {
        "apart": {key: distance(told_by_us[key], told[key]) for key in told_by_us},
        "noise": distance(noise, answer) / float(answer.abs().max()),
        "without": distance(without, answer) / float(answer.abs().max()),
    }


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def first_question(prompt: str, width: int, height: int) -> tuple[Any, ...]:
    """Of txt2img to the U-Net, its conditional half: latents, timestep, condition, answer."""
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        prompt=prompt,
        negative_prompt="a star",
        seed=5,
        sampler_name="Euler",
        steps=1,
        width=width,
        height=height,
        do_not_save_samples=True,
        do_not_reload_embeddings=True,
    )
    p.cached_c, p.cached_uc = [None, None], [None, None]
    with asked() as questions:
        processing.process_images(p)
    latents, timestep, told, answer = questions[0]
    return latents[:1], timestep[:1], {key: value[:1] for key, value in told.items()}, answer[:1]


@contextmanager
def asked() -> Iterator[list[tuple[Any, ...]]]:
    """Every question to the U-Net, with its answer."""
    model, questions = shared.sd_model, []
    apply_model = model.apply_model

    def listen(latents: torch.Tensor, timestep: torch.Tensor, cond: dict[str, Any]) -> torch.Tensor:
        told = {key: value[0] if isinstance(value, list) else value for key, value in cond.items()}
        answer = apply_model(latents, timestep, cond)
        questions.append((latents, timestep, told, answer))
        return answer

    model.apply_model = listen
    try:
        yield questions
    finally:
        del model.apply_model


@contextmanager
def crop(top: int, left: int) -> Iterator[None]:
    with mock.patch.dict(shared.opts.data, sdxl_crop_top=top, sdxl_crop_left=left):
        yield


@contextmanager
def means_drawn() -> Iterator[None]:
    """The VAE's samples are its means, also in txt2img."""
    with ExitStack() as undo:
        for home in (ldm.modules.distributions.distributions, sgm.modules.distributions.distributions):
            kind = home.DiagonalGaussianDistribution
            undo.enter_context(mock.patch.object(kind, "sample", kind.mode))
        yield


@check
def loads(file: str) -> dict[str, Any]:
    """What the WebUI's database makes of the file in the embeddings folder; nothing stays."""
    folder = Path(shared.cmd_opts.embeddings_dir)
    folder.mkdir(exist_ok=True)
    copy = Path(shutil.copy(file, folder))
    try:
        DATABASE.load_textual_inversion_embeddings(force_reload=True)
        found = DATABASE.word_embeddings.get(copy.stem)
        skipped = sorted(DATABASE.skipped_embeddings)
    finally:
        copy.unlink()
        DATABASE.load_textual_inversion_embeddings(force_reload=True)
    return {
        "keys": sorted(load_file(file)),
        "skipped": skipped,
        "vectors": None if found is None else found.vectors,
        "shape": None if found is None else found.shape,
    }


@check
def wrong_encoders() -> str:
    host = A1111Host()
    with host.lend():
        try:
            host.set_embeddings({"zqx": {"clip_x": torch.zeros(2, 64)}})
        except BadInput as error:
            return str(error)
    return "not refused"


@check
def drawn(sampler: str) -> list[Any] | str:
    """The pixels of a preview by ``sampler``."""
    host, asked_for = A1111Host(), request("a red star", seed=7)
    told = SampleRequest(
        asked_for.prompts[:1], asked_for.seeds[:1], steps=4, width=64, height=64, sampler=sampler
    )
    try:
        with host.lend():
            return pixels_of(host.sample(told)[0]).tolist()
    except BadInput as error:
        return str(error)


@check
def moves() -> dict[str, list[str]]:
    """Which parts travel to another device outside a loan, and in one."""
    host = A1111Host()
    vectors = live(host)
    travelled: list[str] = []
    to = torch.nn.Module.to

    def follow(module: torch.nn.Module, *where: Any, **more: Any) -> torch.nn.Module:
        travelled.append(name_of(module))
        return to(module, *where, **more)

    with mock.patch.object(torch.nn.Module, "to", follow):
        noise_of(host)
        outside = [*travelled]
        with host.lend():
            host.set_embeddings({"zqx": vectors})
            travelled.clear()
            host.encode_images(torch.zeros(1, 3, 64, 64))
            for _ in range(2):
                noise_of(host, "a zqx").sum().backward()
            inside = [*travelled]
    return {"outside": outside, "inside": inside}


def name_of(module: torch.nn.Module) -> str:
    model = shared.sd_model
    text = [model.cond_stage_model, *(text.wrapped for text in text_models(model))]
    parts = {"vae": [model.first_stage_model], "unet": [model.model], "text": text}
    return next((name for name, homes in parts.items() if any(module is home for home in homes)), "other")


@check
def network_on_every_layer(checkpoint: str) -> dict[str, Any]:
    """A C3Lier of random weights, added and merged: how far the answers are apart, and what is left."""
    host = A1111Host()
    layers = trained_layers(find_layers(host.parts(), host.info.family), conv=True)
    names = find_stored_layers(shapes_of(checkpoint), host.info.family)
    weights = digest(*shared.sd_model.state_dict().values())
    with host.lend(), torch.no_grad():
        plain = noise_of(host)
        with attach(host, Network("random", None, random_updates(layers))) as attached:
            added = noise_of(host)
            attached.set_multiplier({part: 1.0 for part in host.parts() if part != "unet"})
            text_only = noise_of(host)
            attached.set_multiplier(1.0)
            attached.merge()
            merged = noise_of(host)
        again = noise_of(host)
    return {
        "report": attached.report,
        "names": sorted(trained_layers(names, conv=True).keys() ^ layers.keys()),
        "effect": distance(added, plain),
        "text": distance(text_only, plain),
        "apart": distance(added, merged) / float(added.abs().max()),
        "left": distance(again, plain),
        "weights": weights == digest(*shared.sd_model.state_dict().values()),
    }


def shapes_of(checkpoint: str) -> dict[str, list[int]]:
    with safe_open(Path(sd_models.model_path) / f"{checkpoint}.safetensors", framework="pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}


ECONOMIES = {
    "usual": Economy(),
    "checkpointing": Economy(checkpointing=True),
    "sdpa": Economy(attention="sdpa"),
    "all": Economy(checkpointing=True, attention="sliced", vae_away=True),
}


@check
def economies() -> dict[str, Any]:
    """The noise, the vectors' gradient and the memory with each economy; what is different afterwards."""
    host, told = A1111Host(), dict[str, Any]()
    before = surroundings()
    for name, economy in ECONOMIES.items():
        vectors = live(host)
        with host.lend():
            host.economise(economy)
            host.set_embeddings({"zqx": vectors})
            found: list[torch.Tensor] = []

            def step(found: list[torch.Tensor] = found, vectors: Any = vectors) -> None:
                noise = noise_of(host, "a zqx")
                found.extend(torch.autograd.grad(noise.square().mean(), [*vectors.values()]))
                found.append(noise.detach())

            peak = record(step, host.info.device).peak
            host.sample(request("a zqx"))
        told[name] = {"peak": peak, "found": [tensor.flatten().tolist() for tensor in found]}
    after = surroundings()
    return {**told, "changed": [name for name in before if before[name] != after[name]]}
