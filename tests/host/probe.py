"""Runs inside a real WebUI as an extension's script: answers what the tests ask about the adapter.

Installed by conftest.py; POST /probe {"name": ..., "arguments": {...}} calls one function of ``CHECKS``.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ldm.modules.attention
import networks  # the built-in Lora's
import torch
from fastapi import Body, FastAPI
from modules import devices, script_callbacks, sd_hijack, sd_models, sd_unet, sd_vae, shared
from modules.call_queue import queue_lock
from probe_tools import CHECKS, caches, check, digest, live, noise_of, pixels_of, request, surroundings
from safetensors.torch import load_file, save_file

from lib_ti import jobs
from lib_ti.core.errors import BadInput, StudioError
from lib_ti.hosts.a1111 import A1111Host
from lib_ti.hosts.base import Conditioning
from lib_ti.methods.vector_settings import InversionSettings


@check
def info() -> dict[str, Any]:
    told = vars(A1111Host().info).copy()
    schedule = told.pop("alphas_cumprod")
    assert schedule.dtype == torch.float32 and schedule.device.type == "cpu"
    return {**{k: str(v) for k, v in told.items()}, "alphas_cumprod": schedule.tolist()}


@check
def numbers(given: str, out: str, prompts: list[str]) -> dict[str, int]:
    """The seam's answers to what the file ``given`` holds, written to ``out``; triggers found."""
    tensors = load_file(given)
    vectors = tensors["vectors"].requires_grad_()
    host = A1111Host()
    with host.lend():
        host.set_embeddings({"zqx": {"clip_l": vectors}})
        condition = host.encode_prompts(prompts)
        noise = host.predict_noise(tensors["latents"], tensors["timesteps"], condition)
        noise.square().mean().backward()
        encoded = host.encode_images(tensors["pixels"])
        latents = tensors["latents"].clone().requires_grad_()
        pixels = host.decode(latents)
        pixels.square().mean().backward()
        answer = {
            "hidden": condition.hidden,
            "noise": noise,
            "vectors_grad": vectors.grad,
            "mean": encoded.mean,
            "std": encoded.std,
            "pixels": pixels,
            "latents_grad": latents.grad,
            "token_vectors": host.token_vectors("clip_l"),
        }
        save_file({name: t.detach().contiguous() for name, t in answer.items()}, out)
        assert all(p.grad is None for p in shared.sd_model.parameters())
        return [host.count_triggers(prompt) for prompt in prompts]


@check
def literal(given: str, out: str, prompts: list[str]) -> list[str]:
    """Prompts whose brackets are signs, encoded into ``out``; what else is asked for is refused. Afterwards
    the setting is the user's."""
    host, kept = A1111Host(), shared.opts.emphasis
    with host.lend():
        host.set_embeddings({"zqx": {"clip_l": load_file(given)["vectors"]}})
        host.set_conditioning(Conditioning("none"))
        save_file({"hidden": host.encode_prompts(prompts).hidden.detach().contiguous()}, out)
        assert [host.count_triggers(prompt)["zqx"] for prompt in prompts] == [1] * len(prompts)
        refused = []
        for other in (Conditioning("sd-scripts"), Conditioning("none", 75), Conditioning(own_sizes=True)):
            try:
                host.set_conditioning(other)
            except BadInput as error:
                refused.append(str(error).partition(":")[0])
    assert shared.opts.emphasis == kept
    return refused


@check
def job(fail: bool = False, move_vae: bool = False, prompt: str = "a zqx") -> dict[str, Any]:
    """A little training with previews; what is different afterwards (nothing should be)."""
    shared.opts.data["unload_models_when_training"] = move_vae
    host, before = A1111Host(), surroundings()
    vectors = live(host)
    optimizer = torch.optim.AdamW(vectors.values(), lr=0.05, weight_decay=0)
    previews = []
    try:
        with host.lend():
            host.set_embeddings({"zqx": vectors})
            for _ in range(2):
                previews.append(digest(*map(pixels_of, host.sample(request(prompt)))))
                noise_of(host, prompt).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            if fail:
                raise MemoryError
    except MemoryError:
        pass
    after = surroundings()
    return {
        "changed": [name for name in before if before[name] != after[name]],
        "caches": caches(),
        "previews": previews,
        "moved": [float((vectors[k] - start).abs().max().detach()) for k, start in live(host).items()],
    }


@check
def train(images: str, data: str, settings: dict[str, Any]) -> str:
    """A whole job as the command line runs it; the file it made."""
    chosen = InversionSettings(images=images, **settings)
    outcome = jobs.start(
        A1111Host(),
        chosen,
        folders=jobs.folders_under(Path(data)),
        model="the WebUI's",
        report=lambda event: None,
        stopped=lambda: False,
    )
    return str(outcome.embedding)


@check
def loan_is_clean(disturbance: str) -> dict[str, Any]:
    """Noise with the disturbance, in a loan, in a loan after a preview, and afterwards."""
    host = A1111Host()
    put, take_away = DISTURBANCES[disturbance]
    with host.lend():
        clean = noise_of(host)
    put()
    try:
        with torch.no_grad():
            disturbed = noise_of(host)  # also merges a LoRA, which waits for a forward
        before = surroundings()
        with host.lend():
            lent = noise_of(host)
            host.sample(request("a blue <lora:strong:1> heart"))
            after_preview = noise_of(host)
        with torch.no_grad():
            again = noise_of(host)
        after = surroundings()
    finally:
        take_away()
    return {
        "disturbed": float((disturbed - clean).abs().max()),
        "lent": float((lent - clean).abs().max()),
        "after_preview": float((after_preview - clean).abs().max()),
        "again": float((again - disturbed).abs().max()),
        "changed": [name for name in before if before[name] != after[name]],
    }


class Zeros(sd_unet.SdUnet):
    def forward(self, x: torch.Tensor, timesteps: Any, context: Any, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros_like(x)


class ZerosOption(sd_unet.SdUnetOption):
    model_name, label = "zeros", "zeros"

    def create_unet(self) -> Zeros:
        return Zeros()


class Doubled:
    """A hypernetwork that doubles what the attention reads."""

    def __init__(self) -> None:
        self.name = "doubled"
        self.layers = {64: (lambda context: context * 2, lambda context: context * 2)}


def put_unet() -> None:
    sd_unet.unet_options.append(ZerosOption())
    shared.opts.data["sd_unet"] = "zeros"
    sd_unet.apply_unet()


def remove_unet() -> None:
    shared.opts.data["sd_unet"] = "Automatic"
    sd_unet.apply_unet()
    sd_unet.unet_options.clear()


DISTURBANCES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "lora": (
        lambda: networks.load_networks(["strong"], [1.0], [1.0], [None]),
        lambda: networks.load_networks([]),
    ),
    "hypernetwork": (
        lambda: shared.loaded_hypernetworks.append(Doubled()),
        lambda: shared.loaded_hypernetworks.clear(),
    ),
    "unet": (put_unet, remove_unet),
    "token merging": (
        lambda: sd_models.apply_token_merging(shared.sd_model, 0.5),
        lambda: sd_models.apply_token_merging(shared.sd_model, 0),
    ),
    "tiling": (
        lambda: sd_hijack.model_hijack.apply_circular(True),
        lambda: sd_hijack.model_hijack.apply_circular(False),
    ),
}


@check
def latents_with_another_vae() -> dict[str, Any]:
    """Latents with the checkpoint's VAE, with another, in a loan, and afterwards."""
    host, pixels = A1111Host(), torch.zeros(1, 3, 64, 64)
    with host.lend():
        own = host.encode_images(pixels).mean
    sd_vae.reload_vae_weights(vae_file=sd_vae.vae_dict["other.safetensors"])
    try:
        before = surroundings()
        other = host.encode_images(pixels).mean
        with host.lend():
            lent = host.encode_images(pixels).mean
        again = host.encode_images(pixels).mean
        after = surroundings()
    finally:
        sd_vae.reload_vae_weights(vae_file=None)
    return {
        "other": float((other - own).abs().max()),
        "lent": float((lent - own).abs().max()),
        "again": float((again - other).abs().max()),
        "changed": [name for name in before if before[name] != after[name]],
    }


@check
def attention_gradients() -> dict[str, list[float]]:
    """The vectors' gradient with each implementation of attention that works here."""
    host, gradients = A1111Host(), {}
    try:
        for optimizer in sd_hijack.optimizers:
            sd_hijack.apply_optimizations(optimizer.title())
            applied = ldm.modules.attention.CrossAttention.forward
            vectors = live(host)
            with host.lend():
                assert ldm.modules.attention.CrossAttention.forward is applied
                host.set_embeddings({"zqx": vectors})
                noise_of(host, "a zqx").square().mean().backward()
            gradients[optimizer.name] = vectors["clip_l"].grad.flatten().tolist()
    finally:
        sd_hijack.apply_optimizations()
    return gradients


@check
def triggers_beside_stored_ones() -> dict[str, Any]:
    """Stored embeddings "zqx" and "zqx two", a live "ZQX"; also after the database was read anew."""
    from modules.textual_inversion.textual_inversion import Embedding

    host, database = A1111Host(), sd_hijack.model_hijack.embedding_db
    for name in ("zqx", "zqx two"):
        stored = Embedding(torch.zeros(1, 64), name)
        stored.vectors, stored.shape = 1, 64
        database.register_embedding(stored, shared.sd_model)
    with host.lend():
        host.set_embeddings({"ZQX": live(host)})
        counts = [host.count_triggers("zqx, zqx and zqx two")["ZQX"]]
        database.load_textual_inversion_embeddings(force_reload=True)
        counts.append(host.count_triggers("zqx, zqx and zqx two")["ZQX"])
    found = database.find_embedding_at_position(host.tokenize("zqx"), 0)
    return {"counts": counts, "afterwards": found}


@check
def refusal(kind: str = "") -> str:
    """What a loan says of the WebUI as it is, or as it would be for another ``kind`` of model or setting."""
    owner, name, value = {
        "": (shared.cmd_opts, "lowvram", shared.cmd_opts.lowvram),
        "lowvram": (shared.cmd_opts, "lowvram", True),
        "fp8": (devices, "fp8", True),
        "another family": (shared.sd_model, "is_sd1", False),
        "depth": (shared.sd_model.model, "conditioning_key", "hybrid"),
        "variations": (shared.sd_model.model, "conditioning_key", "crossattn-adm"),
        "x0": (shared.sd_model, "parameterization", "x0"),
    }[kind]
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        with A1111Host().lend():
            return "not refused"
    except StudioError as error:
        return str(error)
    finally:
        setattr(owner, name, before)


@check
def interrupted_preview() -> dict[str, Any]:
    host = A1111Host()
    shared.state.interrupt()
    try:
        with host.lend():
            host.sample(request("a star"))
    except StudioError as error:
        return {"error": str(error), "still": shared.state.interrupted}
    finally:
        shared.state.interrupted = False
    return {}


def serve(_demo: Any, app: FastAPI) -> None:
    @app.get("/probe")
    def ready() -> dict[str, bool]:
        return {"ready": shared.sd_model is not None}

    @app.post("/probe")
    def answer(name: str = Body(), arguments: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        try:
            with queue_lock:
                return {"value": CHECKS[name](**arguments)}
        except Exception:  # the test shows it
            return {"error": traceback.format_exc()}


script_callbacks.on_app_started(serve)
