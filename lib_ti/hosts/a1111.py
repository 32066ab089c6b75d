"""AUTOMATIC1111's WebUI (1.10) as a host: the checkpoint it has loaded, its own text path, its own txt2img.

It imports without a WebUI, whose ``modules`` are imported where they are used. Whoever trains holds the
WebUI's queue lock; nothing here takes it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from lib_ti.core.errors import BadInput, StudioError
from lib_ti.core.nearest import nearest
from lib_ti.hosts.a1111_describing import describer
from lib_ti.hosts.a1111_loan import (
    channels_last,
    condition_caches_cleared,
    differentiable,
    frozen,
    kept,
    neutral,
    option_set,
    own_vae,
    random_state_kept,
    text_encoders_at_hand,
    usual_order,
)
from lib_ti.hosts.a1111_model import (
    parts_of,
    read_info,
    refuse_conditioning,
    refuse_memory_settings,
    text_models,
    token_layers,
    wants_mask,
)
from lib_ti.hosts.base import (
    AS_GENERATED,
    Condition,
    Conditioning,
    Describing,
    Economy,
    Embeddings,
    LatentDistribution,
    SampleRequest,
)
from lib_ti.hosts.economy import economised
from lib_ti.hosts.loan import moved
from lib_ti.hosts.prompts import Trigger, Vocabulary, tokenize_triggers
from lib_ti.networks.layers import Parts

_PIXELS_AT_ONCE = 1024 * 1024  # pictures of a request are drawn in groups of so many pixels
_EMPHASIS = re.compile(r"[(\[]")
# What txt2img writes to the WebUI's state. Not "interrupted": a stop asked for meanwhile must stay.
_PROGRESS = (
    "job",
    "job_no",
    "job_count",
    "processing_has_refined_job_count",
    "sampling_step",
    "sampling_steps",
    "current_latent",
    "current_image",
    "current_image_sampling_step",
    "textinfo",
)


@dataclass(frozen=True)
class _Frame:
    """What the U-Net is told of a picture beside the prompt; a batch of one."""

    sizes: torch.Tensor | None  # SDXL: embedded size and crop, (1, k)
    masked: torch.Tensor | None  # inpainting: mask and masked latents, (1, 1 + c, h, w)


class A1111Host:
    """``Host`` on the checkpoint that the WebUI has loaded now; to be made anew for every job."""

    def __init__(self) -> None:
        """Raises BadInput for a checkpoint that cannot be trained here."""
        from modules import shared
        from modules.sd_hijack import model_hijack

        self._model: Any = shared.sd_model
        self.info = read_info(self._model)
        self._database = model_hijack.embedding_db
        self._find_stored = self._database.find_embedding_at_position
        self._live: list[tuple[Trigger, Any]] = []  # longest trigger first
        self._frames: dict[tuple[int, int], _Frame] = {}  # by the latents' height and width
        self._reordered: list[nn.Parameter] = []
        self._lent = False
        self._conditioning = AS_GENERATED
        self._economy = ExitStack()  # what the last call of economise changed

    @contextmanager
    def lend(self) -> Iterator[None]:
        """See ``Host``. The cross-attention implementation stays the user's, unless ``economise`` is told
        another.

        Raises BadInput where the WebUI was started with --lowvram or keeps weights in 8 bits.
        """
        from modules import devices, shared
        from modules.sd_hijack import model_hijack

        refuse_memory_settings()
        model = self._model
        with ExitStack() as give_back:
            give_back.enter_context(kept(self, "_live", "_frames", "_lent", "_reordered", "_conditioning"))
            give_back.enter_context(condition_caches_cleared())
            give_back.enter_context(frozen(model))
            if self.info.device.type == "cpu":  # where it was measured; a card is left as it is
                unet = model.model.diffusion_model
                self._reordered = give_back.enter_context(channels_last(unet))
            give_back.enter_context(differentiable(text_models(model)))
            give_back.enter_context(text_encoders_at_hand(model))
            give_back.enter_context(neutral(model))
            give_back.enter_context(own_vae(model))
            if shared.opts.unload_models_when_training and not model.lowvram:
                give_back.enter_context(moved(model.first_stage_model, devices.cpu))
            give_back.enter_context(kept(model_hijack, "comments", "extra_generation_params"))
            model_hijack.clear_comments()
            # Not registered among the stored ones, which a click on "Refresh" reads anew from the disk.
            give_back.enter_context(kept(self._database, "find_embedding_at_position"))
            self._database.find_embedding_at_position = self._find
            self._lent, self._frames = True, {}
            give_back.enter_context(self._economy)
            yield

    def economise(self, economy: Economy) -> None:
        from modules import devices

        if not self._lent:
            raise RuntimeError("a model is economised in a loan only, which takes it back")
        self._economy.close()
        model = self._model
        texts = text_models(model)
        self._economy.enter_context(economised(model.model.diffusion_model, texts, economy))
        # With --medvram the WebUI itself sends it away.
        if economy.vae_away and not model.lowvram:
            self._economy.enter_context(moved(model.first_stage_model, devices.cpu))

    def set_conditioning(self, conditioning: Conditioning) -> None:
        if not self._lent:
            raise RuntimeError("a model is conditioned otherwise in a loan only, which takes it back")
        refuse_conditioning(conditioning)
        self._conditioning = conditioning

    def _reading(self) -> AbstractContextManager[None]:
        """Inside, the WebUI reads prompts as the job wants it."""
        return option_set("emphasis", "None") if self._conditioning.emphasis == "none" else nullcontext()

    def parts(self) -> Parts:
        return parts_of(self._model, self.info.family)

    def tokenize(self, text: str) -> list[int]:
        return list(self._model.cond_stage_model.tokenize([text])[0])

    def words(self) -> Mapping[str, int]:
        # Not above: it imports transformers, which a WebUI's start need not wait for.
        from lib_ti.hosts.tokenizer import clip_words

        return clip_words()

    def token_vectors(self, encoder: str) -> torch.Tensor:
        if encoder not in self.info.text_encoders:
            raise ValueError(f"this model has the text encoder {[*self.info.text_encoders]}, not {encoder!r}")
        return token_layers(self._model)[encoder].wrapped.weight.detach().float()

    def set_embeddings(self, embeddings: Embeddings) -> None:
        from modules.textual_inversion.textual_inversion import Embedding

        if not self._lent:
            raise RuntimeError("embeddings can be set in a loan only, which takes them back")
        for name, vectors in embeddings.items():
            if vectors.keys() != self.info.text_encoders.keys():
                raise BadInput(
                    f"the embedding {name!r} was made for {' and '.join(sorted(vectors))}, this model reads "
                    f"{' and '.join(sorted(self.info.text_encoders))}; use one made for {self.info.family}."
                )
        counts = {name: len(next(iter(vectors.values()))) for name, vectors in embeddings.items()}
        self._live = []
        for trigger in tokenize_triggers(counts, self._vocabulary()):
            vectors = embeddings[trigger.name]
            # The WebUI's own form: the tensor alone where there is one text encoder.
            (alone, *others) = vectors.values()
            embedding = Embedding(dict(vectors) if others else alone, trigger.name)
            embedding.vectors = trigger.vectors
            embedding.shape = sum(tensor.shape[1] for tensor in vectors.values())
            self._live.append((trigger, embedding))

    def _vocabulary(self) -> Vocabulary:
        text = text_models(self._model)[0]
        return Vocabulary(self.tokenize, text.id_start, text.id_end, text.id_pad, text.comma_token)

    def _find(self, tokens: list[int], offset: int) -> tuple[Any, int | None]:
        """In the place of the database's method: the longest trigger at ``offset``; ours win a tie."""
        embedding, length = self._find_stored(tokens, offset)
        for trigger, live in self._live:
            ids = trigger.token_ids
            if len(ids) >= (length or 0) and tuple(tokens[offset : offset + len(ids)]) == ids:
                return live, len(ids)
        return embedding, length

    def count_triggers(self, prompt: str) -> Mapping[str, int]:
        with self._reading():
            chunks, _ = text_models(self._model)[0].tokenize_line(prompt)
        found = Counter(id(fix.embedding) for chunk in chunks for fix in chunk.fixes)
        return {trigger.name: found[id(embedding)] for trigger, embedding in self._live}

    def places_cut(self, prompt: str) -> int:
        return 0  # the WebUI reads prompts of any length

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        distinct = list(dict.fromkeys(prompts))
        # Emphasis keeps the mean of all that is encoded at once, and generation encodes prompts apart.
        alone = [prompt for prompt in distinct if _EMPHASIS.search(prompt)]
        together = [prompt for prompt in distinct if prompt not in alone]
        rows: dict[str, Condition] = {}
        for group in [together] * bool(together) + [[prompt] for prompt in alone]:
            condition = self._encode(group)
            rows.update((prompt, condition[i : i + 1]) for i, prompt in enumerate(group))
        hidden = self._equally_long({prompt: row.hidden for prompt, row in rows.items()})
        pooled = [row.pooled for prompt in prompts if (row := rows[prompt]).pooled is not None]
        return Condition(torch.cat([hidden[p] for p in prompts]), torch.cat(pooled) if pooled else None)

    def _equally_long(self, hidden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """(1, 77 * chunks, d) each; the shorter ones end in chunks of the empty prompt."""
        lengths = {states.shape[1] for states in hidden.values()}
        if len(lengths) == 1:
            return hidden
        empty = self._encode([""]).hidden
        missing = {p: (max(lengths) - states.shape[1]) // empty.shape[1] for p, states in hidden.items()}
        return {p: torch.cat([states, *[empty] * missing[p]], dim=1) for p, states in hidden.items()}

    def _encode(self, prompts: Sequence[str]) -> Condition:
        from modules import devices

        with devices.autocast(), self._reading():
            told = self._model.get_learned_conditioning(prompts)
        if not isinstance(told, dict):
            return Condition(told)
        return Condition(told["crossattn"], told["vector"][:, : self._pooled_width()])

    def _pooled_width(self) -> int:
        """Of SDXL's vector, in which the embedded size and crop follow what the second encoder pooled."""
        return text_models(self._model)[-1].wrapped.model.text_projection.shape[1]

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> LatentDistribution:
        from modules import devices

        vae = self._model.first_stage_model
        # Not encode_first_stage, which gives SDXL's only a sample of the distribution.
        with self._vae_at_hand(), devices.without_autocast():
            moments = vae.quant_conv(vae.encoder(pixels.to(devices.device, devices.dtype_vae))).float()
        mean, log_variance = moments.chunk(2, dim=1)
        if not bool(torch.isfinite(moments).all()):
            raise StudioError(
                "The VAE gave values that are no numbers, its precision is too small for this picture: "
                "start the WebUI with --no-half-vae and try again."
            )
        scale = self.info.latent_scale
        return LatentDistribution(mean * scale, (log_variance.clamp(-30, 20) / 2).exp() * scale)

    def predict_noise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        frame, count = self._frame(*latents.shape[-2:]), len(latents)
        told: dict[str, Any]
        if condition.pooled is None or frame.sizes is None:
            told = {"c_crossattn": [condition.hidden]}
        else:
            vector = torch.cat([condition.pooled, frame.sizes.expand(count, -1)], dim=1)
            told = {"crossattn": condition.hidden, "vector": vector}
        if frame.masked is not None:
            told["c_concat"] = [frame.masked.expand(count, -1, -1, -1)]
        return self._model.apply_model(latents, timesteps, told).float()

    @torch.no_grad()
    def _frame(self, height: int, width: int) -> _Frame:
        """For latents of that size; kept, since it costs an encoder's run."""
        if (height, width) not in self._frames:
            sizes = self._sizes(height, width) if self.info.family == "sdxl" else None
            masked = self._fully_masked(height, width) if wants_mask(self._model) else None
            self._frames[height, width] = _Frame(sizes, masked)
        return self._frames[height, width]

    def _sizes(self, height: int, width: int) -> torch.Tensor:
        from modules import devices
        from modules.prompt_parser import SdConditioning

        factor = self.info.pixels_per_latent
        nothing = SdConditioning([""], width=width * factor, height=height * factor)
        with devices.autocast():
            vector = self._model.get_learned_conditioning(nothing)["vector"]
        return vector[:, self._pooled_width() :]

    def _fully_masked(self, height: int, width: int) -> torch.Tensor:
        """As ``processing.txt2img_image_conditioning`` makes it, with the mean where that draws a sample."""
        factor = self.info.pixels_per_latent
        grey = torch.zeros(1, 3, height * factor, width * factor)
        return nn.functional.pad(self.encode_images(grey).mean, (0, 0, 0, 0, 1, 0), value=1.0)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        from modules import devices

        # Not decode_first_stage, which lets no gradient through.
        with self._vae_at_hand(), devices.without_autocast():
            scaled = (latents / self.info.latent_scale).to(devices.device, devices.dtype_vae)
            return self._model.first_stage_model.decode(scaled).float()

    @contextmanager
    def _vae_at_hand(self) -> Iterator[None]:
        """The VAE on the device; with --medvram by the WebUI's own hook, which sends another part away."""
        vae = self._model.first_stage_model
        if not self._model.lowvram:
            with moved(vae, self.info.device):
                yield
            return
        for hook in vae._forward_pre_hooks.values():
            hook(vae, ())
        yield

    def describer(self, asked: Describing) -> AbstractContextManager[Callable[[Image.Image], str]]:
        return describer(asked)

    def sampler_names(self) -> list[str]:
        return sampler_names()

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> list[Image.Image]:
        """By the WebUI's own txt2img. Raises StudioError when it was interrupted."""
        from modules import processing, shared
        from modules.sd_hijack import model_hijack

        with ExitStack() as undo:
            undo.enter_context(random_state_kept(self.info.device))
            undo.enter_context(neutral(self._model))
            undo.enter_context(usual_order(self._reordered))
            undo.enter_context(self._vae_at_hand())
            undo.enter_context(kept(model_hijack, "comments", "extra_generation_params"))
            undo.enter_context(kept(shared.state, *_PROGRESS))
            # Nobody watches a preview grow, and an approximation that is not there would be downloaded.
            undo.enter_context(option_set("live_previews_enable", False))
            # The prompt that a user can call back with one click is not the preview's.
            undo.enter_context(kept(shared.cmd_opts, "no_prompt_history"))
            shared.cmd_opts.no_prompt_history = True
            images = processing.process_images(self._processing(request)).images
        if shared.state.interrupted or len(images) != len(request.prompts):
            raise StudioError("The preview was interrupted before its pictures were finished.")
        return images

    def _processing(self, request: SampleRequest) -> Any:
        from modules import processing, shared

        factor = self.info.pixels_per_latent
        if request.width % factor or request.height % factor:
            raise BadInput(
                f"size {request.width}x{request.height}: both must be multiples of {factor} pixels."
            )
        sampler, schedule = _sampler(request.sampler)
        count = len(request.prompts)
        at_once = min(count, max(1, _PIXELS_AT_ONCE // (request.width * request.height)))
        title = self._model.sd_checkpoint_info.title
        # Somebody may have chosen another checkpoint meanwhile, which txt2img would load now.
        pinned = shared.opts.sd_model_checkpoint == title
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=self._model,
            prompt=list(request.prompts),
            negative_prompt=request.negative_prompt,
            seed=list(request.seeds),
            sampler_name=sampler,
            scheduler=schedule,
            steps=request.steps,
            cfg_scale=request.cfg_scale,
            width=request.width,
            height=request.height,
            batch_size=at_once,
            n_iter=-(-count // at_once),
            do_not_save_samples=True,
            do_not_save_grid=True,
            do_not_reload_embeddings=True,
            override_settings={} if pinned else {"sd_model_checkpoint": title},
        )
        # Its own: the shared ones would give the condition of the vectors as they were.
        p.cached_c, p.cached_uc = [None, None], [None, None]
        return p


def sampler_names() -> list[str]:
    """The WebUI's, each also with Karras' noise levels; its own schedule types go by other names."""
    from modules import sd_samplers

    return [f"{sampler.name}{levels}" for sampler in sd_samplers.all_samplers for levels in ("", " Karras")]


def _sampler(name: str) -> tuple[str, str]:
    """Sampler and schedule type. The WebUI itself takes its first sampler for a name it does not know."""
    from modules import sd_samplers

    if name and name not in sampler_names():
        raise BadInput(f"there is no sampler {name!r} here{nearest(name, sampler_names())}.")
    return sd_samplers.get_sampler_and_scheduler(name or "DPM++ 2M Karras", None, convert_automatic=False)
