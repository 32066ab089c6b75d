"""The standalone host: Stable Diffusion 1.x, 2.x and XL held by diffusers, no WebUI needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, SchedulerMixin
from PIL import Image
from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import nearest
from lib_ti.hosts.base import (
    AS_GENERATED,
    Condition,
    Conditioning,
    Describing,
    Economy,
    Embeddings,
    LatentDistribution,
    ModelInfo,
    Prediction,
    SampleRequest,
)
from lib_ti.hosts.checkpoints import Components, load_components
from lib_ti.hosts.clip_text import ClipText, check_clip_skip
from lib_ti.hosts.economy import economised
from lib_ti.hosts.loan import moved
from lib_ti.networks.layers import Parts
from lib_ti.networks.names import PARTS
from lib_ti.networks.prompt_run import PromptNetworks

_PIXELS_AT_ONCE = 1024 * 1024  # pictures of a request are drawn in groups of so many pixels
_ENCODERS = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}
# By the WebUI's names; those that draw no noise on their way, so that the seeds settle everything.
_SAMPLERS: Mapping[str, Callable[..., SchedulerMixin]] = {
    "DPM++ 2M Karras": partial(DPMSolverMultistepScheduler, use_karras_sigmas=True),
    "DPM++ 2M": DPMSolverMultistepScheduler,
    "Euler": EulerDiscreteScheduler,
    "DDIM": partial(DDIMScheduler, clip_sample=False),
}
_PAD_IDS = {"clip_l": None, "clip_h": 0, "clip_g": 0}  # None: the end mark
_LEAST_ALPHA = 2**-24  # where a schedule ends in pure noise, whose ratio to the picture would be infinite


def best_device() -> torch.device:
    """A CUDA card, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class StandaloneHost:
    """``Host`` on a set of diffusers components."""

    def __init__(self, components: Components, device: torch.device, clip_skip: int = 1) -> None:
        """Raises BadInput for a clip skip that the model does not have."""
        self._unet = components.unet.to(device)
        self._vae = components.vae.to(device)
        self._texts = _text_encoders(components, device)
        self._clip_skip = _layer(components, clip_skip)
        self._embeddings: Embeddings = {}
        self._economy: ExitStack | None = None  # in a loan
        self._conditioning = AS_GENERATED
        self.info = ModelInfo(
            name=components.name,
            sha256=components.sha256,
            family=components.family,
            prediction=components.prediction,
            alphas_cumprod=components.alphas_cumprod,
            text_encoders={name: text.model.config.hidden_size for name, text in self._texts.items()},
            latent_channels=self._vae.config.latent_channels,
            latent_scale=self._vae.config.scaling_factor,
            pixels_per_latent=2 ** (len(self._vae.config.block_out_channels) - 1),
            native_size=components.native_size,
            device=device,
            dtype=next(self._unet.parameters()).dtype,
            prediction_told=components.prediction_told,
        )
        for module in self._modules():
            module.eval()

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str = "",
        clip_skip: int = 1,
        prediction: Prediction | None = None,
    ) -> StandaloneHost:
        """The host of ``model``: ``builtin``, a checkpoint file, a diffusers folder or a hub id. It predicts
        what it says of itself, where ``prediction`` is None."""
        try:
            chosen = torch.device(device) if device else best_device()
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise BadInput(f"device {device!r} cannot be used ({error}); leave it out or try cpu.") from error
        return cls(load_components(model, prediction=prediction), chosen, clip_skip)

    def _modules(self) -> tuple[nn.Module, ...]:
        return self._unet, self._vae, *(text.model for text in self._texts.values())

    @contextmanager
    def lend(self) -> Iterator[None]:
        flags = [(p, p.requires_grad) for module in self._modules() for p in module.parameters()]
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            with ExitStack() as self._economy:
                yield
        finally:
            self._economy = None
            self._conditioning = AS_GENERATED
            self._embeddings = {}
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def economise(self, economy: Economy) -> None:
        if self._economy is None:
            raise RuntimeError("a model is economised in a loan only, which takes it back")
        self._economy.close()
        texts = [text.model for text in self._texts.values()]
        self._economy.enter_context(economised(self._unet, texts, economy))
        if economy.vae_away:
            self._economy.enter_context(moved(self._vae, torch.device("cpu")))

    def set_conditioning(self, conditioning: Conditioning) -> None:
        if self._economy is None:
            raise RuntimeError("a model is conditioned otherwise in a loan only, which takes it back")
        if conditioning.own_sizes and self.info.family != "sdxl":
            raise BadInput(
                "size-conditioning: only SDXL is told the sizes of pictures, and the model "
                f"{self.info.name} is {self.info.family}; leave it out."
            )
        self._conditioning = conditioning

    @contextmanager
    def _generating(self) -> Iterator[None]:
        """Prompts are read as generation reads them."""
        kept, self._conditioning = self._conditioning, AS_GENERATED
        try:
            yield
        finally:
            self._conditioning = kept

    def parts(self) -> Parts:
        models = self._unet, *(text.model for text in self._texts.values())
        return dict(zip(PARTS[self.info.family], models, strict=True))

    def tokenize(self, text: str) -> list[int]:
        first, *_ = self._texts.values()
        return first.tokenize(text)

    def words(self) -> Mapping[str, int]:
        first, *_ = self._texts.values()
        return first.words()

    def token_vectors(self, encoder: str) -> torch.Tensor:
        if encoder not in self._texts:
            raise ValueError(f"this model has the text encoders {[*self._texts]}, not {encoder!r}")
        return self._texts[encoder].token_vectors()

    def set_embeddings(self, embeddings: Embeddings) -> None:
        for trigger, vectors in embeddings.items():
            if vectors.keys() != self._texts.keys():
                raise BadInput(
                    f"the embedding {trigger!r} was made for {' and '.join(sorted(vectors))}, this model "
                    f"reads {' and '.join(sorted(self._texts))}; use one made for {self.info.family}."
                )
        self._embeddings = embeddings

    def _live(self, encoder: str) -> Mapping[str, torch.Tensor]:
        return {trigger: vectors[encoder] for trigger, vectors in self._embeddings.items()}

    def count_triggers(self, prompt: str) -> Mapping[str, int]:
        # Every encoder finds the same ones: they share the vocabulary and the numbers of vectors.
        (name, first), *_ = self._texts.items()
        return first.count_triggers(prompt, self._live(name), self._conditioning)

    def places_cut(self, prompt: str) -> int:
        (name, first), *_ = self._texts.items()
        return first.places_cut(prompt, self._live(name), self._conditioning)

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        encoded = [
            text.encode_and_pool(prompts, self._live(name), self._clip_skip, self._conditioning)
            for name, text in self._texts.items()
        ]
        # SDXL's U-Net reads both side by side, and what the second one pools.
        return Condition(torch.cat([hidden for hidden, _ in encoded], dim=-1), encoded[-1][1])

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> LatentDistribution:
        with moved(self._vae, self.info.device):
            posterior = self._vae.encode(pixels.to(self.info.device, self._vae.dtype)).latent_dist
        scale = self.info.latent_scale
        return LatentDistribution(posterior.mean.float() * scale, posterior.std.float() * scale)

    def predict_noise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        dtype = self.info.dtype
        added = None
        if condition.pooled is not None:
            sizes = condition.sizes
            if sizes is None:
                sizes = self._sizes(*latents.shape[-2:]).expand(len(latents), -1)
            sizes = sizes.to(self.info.device)
            added = {"text_embeds": condition.pooled.to(dtype), "time_ids": sizes}
        return self._unet(
            latents.to(dtype),
            timesteps,
            encoder_hidden_states=condition.hidden.to(dtype),
            added_cond_kwargs=added,
        ).sample.float()

    def _sizes(self, height: int, width: int) -> torch.Tensor:
        """What SDXL is told of a picture: its size, where it was cut out, the size it has now; (1, 6)."""
        size = [height * self.info.pixels_per_latent, width * self.info.pixels_per_latent]
        return torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=self.info.device)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        with moved(self._vae, self.info.device):
            return self._vae.decode((latents / self.info.latent_scale).to(self._vae.dtype)).sample.float()

    def describer(self, asked: Describing) -> AbstractContextManager[Callable[[Image.Image], str]]:
        raise BadInput(
            f"there is no {asked.by} here: captions come from a WebUI's interrogators; open TI Studio there, "
            "or write them in the caption editor."
        )

    def sampler_names(self) -> list[str]:
        return list(_SAMPLERS)

    @torch.no_grad()
    def sample(self, request: SampleRequest, networks: PromptNetworks | None = None) -> list[Image.Image]:
        """``networks``: what the prompts called, which hangs in this model."""
        factor = self.info.pixels_per_latent
        if request.width % factor or request.height % factor:
            raise BadInput(
                f"size {request.width}x{request.height}: both must be multiples of {factor} pixels."
            )
        group = max(1, _PIXELS_AT_ONCE // (request.width * request.height))
        images: list[Image.Image] = []
        for start in range(0, len(request.prompts), group):
            part = slice(start, start + group)
            with self._generating():
                latents = self._denoise(request, request.prompts[part], request.seeds[part], networks)
            images += [_to_image(pixels) for pixels in self.decode(latents)]
        return images

    def _denoise(
        self,
        request: SampleRequest,
        prompts: Sequence[str],
        seeds: Sequence[int],
        networks: PromptNetworks | None,
    ) -> torch.Tensor:
        """Latents by the request's sampler (DPM-Solver++(2M), arXiv 2211.01095, with Karras' noise levels
        if it names none) and classifier-free guidance."""
        info, factor = self.info, self.info.pixels_per_latent
        guided = request.cfg_scale != 1
        negative = request.negative_prompt if guided else None
        condition = self._sampling_condition(prompts, negative, networks)
        negative_rows = [True] * len(prompts) * guided + [False] * len(prompts)
        scheduler = self._scheduler(request.sampler)
        scheduler.set_timesteps(request.steps, device=info.device)
        shape = (info.latent_channels, request.height // factor, request.width // factor)
        # Drawn on the CPU, a generator a picture: the same on every device and in every batch.
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        latents = torch.stack(noise).to(info.device) * scheduler.init_noise_sigma
        for step, t in enumerate(scheduler.timesteps):
            if networks is not None:
                networks.denoise(step / len(scheduler.timesteps), negative_rows)
            scaled = scheduler.scale_model_input(latents, t)
            if guided:
                answer = self.predict_noise(torch.cat([scaled, scaled]), t, condition)
                without, with_prompt = answer.chunk(2)
                answer = without + request.cfg_scale * (with_prompt - without)
            else:
                answer = self.predict_noise(scaled, t, condition)
            latents = scheduler.step(answer, t, latents).prev_sample
        if networks is not None:
            networks.rest()
        return latents

    def _sampling_condition(
        self, prompts: Sequence[str], negative: str | None, networks: PromptNetworks | None
    ) -> Condition:
        """Of the prompts; before them, where there is a negative one, as often of that."""
        count = 0 if negative is None else len(prompts)
        texts = [negative or ""] * count + [*prompts]
        if networks is None:
            condition = self.encode_prompts(texts)
        else:
            with networks.reading(negative=False):
                condition = self.encode_prompts(texts)
            with networks.reading(negative=True):
                below = self.encode_prompts(texts)
            condition.hidden[:count] = below.hidden[:count]
            if condition.pooled is not None and below.pooled is not None:
                condition.pooled[:count] = below.pooled[:count]
        if condition.pooled is not None and not negative:
            # SDXL was trained with zeros where the prompt was left out.
            condition.hidden[:count] = 0
            condition.pooled[:count] = 0
        return condition

    def _scheduler(self, sampler: str) -> Any:
        kind = _SAMPLERS.get(sampler or "DPM++ 2M Karras")
        if kind is None:
            raise BadInput(f"there is no sampler {sampler!r} here{nearest(sampler, _SAMPLERS)}.")
        abar = self.info.alphas_cumprod.double().clamp(min=_LEAST_ALPHA)
        betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
        return kind(
            trained_betas=betas.float().numpy(),
            prediction_type={"eps": "epsilon", "v": "v_prediction"}[self.info.prediction],
        )


def _text_encoders(components: Components, device: torch.device) -> dict[str, ClipText]:
    """By their names, in the order in which the U-Net reads them."""
    models = [model for model in (components.text_encoder, components.text_encoder_2) if model is not None]
    final_norm = components.family != "sdxl"
    return {
        name: ClipText(model.to(device), components.tokenizer, _PAD_IDS[name], final_norm=final_norm)
        for name, model in zip(_ENCODERS[components.family], models, strict=True)
    }


def _layer(components: Components, clip_skip: int) -> int:
    """The clip skip to read with: SDXL takes the layer before the last of both text encoders, always."""
    if components.family != "sdxl":
        check_clip_skip(clip_skip, components.text_encoder.config.num_hidden_layers)
        return clip_skip
    if clip_skip not in (1, 2):
        raise BadInput(
            f"clip skip is {clip_skip}, but SDXL reads the layer before the last, as every program does; "
            "leave it out."
        )
    return 2


def _to_image(pixels: torch.Tensor) -> Image.Image:
    """(3, h, w), -1..1 -> RGB."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))
