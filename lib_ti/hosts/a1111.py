"""AUTOMATIC1111's WebUI (1.10) as a host: the checkpoint it has loaded, its own text path, its own txt2img.

It imports without a WebUI, whose ``modules`` are imported where they are used. Whoever trains holds the
WebUI's queue lock; nothing here takes it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from PIL import Image

from lib_ti.core.errors import BadInput, StudioError
from lib_ti.formats.embedding import Family
from lib_ti.hosts.a1111_loan import (
    condition_caches_cleared,
    frozen,
    kept,
    moved,
    neutral,
    own_vae,
    random_state_kept,
)
from lib_ti.hosts.base import Condition, Embeddings, LatentDistribution, ModelInfo, SampleRequest
from lib_ti.hosts.prompts import Trigger, Vocabulary, tokenize_triggers

_PIXELS_AT_ONCE = 1024 * 1024  # pictures of a request are drawn in groups of so many pixels
_ENCODERS: Mapping[Family, str] = {"sd1": "clip_l", "sd2": "clip_h"}
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


class A1111Host:
    """``Host`` on the checkpoint that the WebUI has loaded now; to be made anew for every job."""

    def __init__(self) -> None:
        """Raises BadInput for a checkpoint that cannot be trained here."""
        from modules import shared
        from modules.sd_hijack import model_hijack

        self._model: Any = shared.sd_model
        _refuse_model(self._model)
        self._database = model_hijack.embedding_db
        self._find_stored = self._database.find_embedding_at_position
        self._live: list[tuple[Trigger, Any]] = []  # longest trigger first
        self._lent = False
        self.info = self._read_info()

    def _read_info(self) -> ModelInfo:
        from modules import devices, processing

        model, checkpoint = self._model, self._model.sd_checkpoint_info
        family: Family = "sd2" if model.is_sd2 else "sd1"
        # Stability's own .yaml says 64 of the model they trained at 768 pixels.
        side = 96 if model.is_sd2 and model.parameterization == "v" else model.image_size
        return ModelInfo(
            name=checkpoint.name_for_extra,
            sha256=checkpoint.sha256 or "",
            family=family,
            prediction=model.parameterization,
            # The model's other buffers are rounded to its precision, and settings change alphas_cumprod.
            alphas_cumprod=model.alphas_cumprod_original.detach().float().cpu(),
            text_encoders={_ENCODERS[family]: self._token_table().shape[1]},
            latent_channels=model.channels,
            latent_scale=float(model.scale_factor),
            pixels_per_latent=processing.opt_f,
            native_size=side * processing.opt_f,
            device=torch.device(devices.device),
            dtype=next(model.model.parameters()).dtype,
        )

    @contextmanager
    def lend(self) -> Iterator[None]:
        """See ``Host``. The cross-attention implementation stays the user's.

        Raises BadInput where the WebUI was started with --lowvram or keeps weights in 8 bits.
        """
        from modules import devices, shared
        from modules.sd_hijack import model_hijack

        _refuse_memory_settings()
        model = self._model
        with ExitStack() as give_back:
            give_back.enter_context(condition_caches_cleared())
            give_back.enter_context(frozen(model))
            give_back.enter_context(neutral(model))
            give_back.enter_context(own_vae(model))
            if shared.opts.unload_models_when_training and not model.lowvram:
                give_back.enter_context(moved(model.first_stage_model, devices.cpu))
            give_back.enter_context(kept(model_hijack, "comments", "extra_generation_params"))
            model_hijack.clear_comments()
            # Not registered among the stored ones, which a click on "Refresh" reads anew from the disk.
            give_back.enter_context(kept(self._database, "find_embedding_at_position"))
            self._database.find_embedding_at_position = self._find
            give_back.enter_context(kept(self, "_live", "_lent"))
            self._lent = True
            yield

    def tokenize(self, text: str) -> list[int]:
        return list(self._model.cond_stage_model.tokenize([text])[0])

    def token_vectors(self, encoder: str) -> torch.Tensor:
        if encoder not in self.info.text_encoders:
            raise ValueError(f"this model has the text encoder {[*self.info.text_encoders]}, not {encoder!r}")
        return self._token_table()

    def _token_table(self) -> torch.Tensor:
        from modules.sd_hijack import EmbeddingsWithFixes

        text = self._model.cond_stage_model
        layer = next(module for module in text.modules() if isinstance(module, EmbeddingsWithFixes))
        return layer.wrapped.weight.detach().float()

    def set_embeddings(self, embeddings: Embeddings) -> None:
        from modules.textual_inversion.textual_inversion import Embedding

        if not self._lent:
            raise RuntimeError("embeddings can be set in a loan only, which takes them back")
        (encoder,) = self.info.text_encoders
        for name, vectors in embeddings.items():
            if set(vectors) != {encoder}:
                raise BadInput(
                    f"the embedding {name!r} was made for {' and '.join(sorted(vectors))}, "
                    f"this model reads {encoder}; use one made for {self.info.family}."
                )
        live = {name: vectors[encoder] for name, vectors in embeddings.items()}
        triggers = tokenize_triggers({name: len(v) for name, v in live.items()}, self._vocabulary())
        self._live = []
        for trigger in triggers:
            embedding = Embedding(live[trigger.name], trigger.name)
            embedding.vectors, embedding.shape = live[trigger.name].shape
            self._live.append((trigger, embedding))

    def _vocabulary(self) -> Vocabulary:
        text = self._model.cond_stage_model
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
        chunks, _ = self._model.cond_stage_model.tokenize_line(prompt)
        found = Counter(id(fix.embedding) for chunk in chunks for fix in chunk.fixes)
        return {trigger.name: found[id(embedding)] for trigger, embedding in self._live}

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        distinct = list(dict.fromkeys(prompts))
        # Emphasis keeps the mean of all that is encoded at once, and generation encodes prompts apart.
        alone = [prompt for prompt in distinct if _EMPHASIS.search(prompt)]
        together = [prompt for prompt in distinct if prompt not in alone]
        hidden: dict[str, torch.Tensor] = {}
        for group in [together] * bool(together) + [[prompt] for prompt in alone]:
            hidden.update(zip(group, self._encode(group), strict=True))
        longest = max(map(len, hidden.values()))
        if any(len(states) < longest for states in hidden.values()):
            (empty,) = self._encode([""])
            for prompt, states in hidden.items():
                missing = (longest - len(states)) // len(empty)
                hidden[prompt] = torch.cat([states, *[empty] * missing])
        return Condition(torch.stack([hidden[prompt] for prompt in prompts]))

    def _encode(self, prompts: list[str]) -> torch.Tensor:
        from modules import devices

        with devices.autocast():
            return self._model.get_learned_conditioning(prompts)

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> LatentDistribution:
        from modules import devices

        with self._vae_at_hand(), devices.without_autocast():
            posterior = self._model.encode_first_stage(pixels.to(devices.device, devices.dtype_vae))
        mean, std = (part.float() * self.info.latent_scale for part in (posterior.mean, posterior.std))
        if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
            raise StudioError(
                "The VAE gave values that are no numbers, its precision is too small for this picture: "
                "start the WebUI with --no-half-vae and try again."
            )
        return LatentDistribution(mean, std)

    def predict_noise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        return self._model.apply_model(latents, timesteps, {"c_crossattn": [condition.hidden]}).float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        from modules import devices

        # Not decode_first_stage, which lets no gradient through.
        with self._vae_at_hand(), devices.without_autocast():
            scaled = (latents / self.info.latent_scale).to(devices.device, devices.dtype_vae)
            return self._model.first_stage_model.decode(scaled).float()

    def _vae_at_hand(self) -> AbstractContextManager[None]:
        """The VAE on the device; with --medvram the WebUI itself brings it."""
        if self._model.lowvram:
            return nullcontext()
        return moved(self._model.first_stage_model, self.info.device)

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> list[Image.Image]:
        """By the WebUI's own txt2img. Raises StudioError when it was interrupted."""
        from modules import processing, shared
        from modules.sd_hijack import model_hijack

        with ExitStack() as undo:
            undo.enter_context(random_state_kept(self.info.device))
            undo.enter_context(neutral(self._model))
            undo.enter_context(self._vae_at_hand())
            undo.enter_context(kept(model_hijack, "comments", "extra_generation_params"))
            undo.enter_context(kept(shared.state, *_PROGRESS))
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
            sampler_name="DPM++ 2M",
            scheduler="Karras",
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


def _refuse_model(model: Any) -> None:
    if model is None:
        raise BadInput("The WebUI has no checkpoint loaded; choose one at the top of its page and try again.")
    name = model.sd_checkpoint_info.name_for_extra
    if not (model.is_sd1 or model.is_sd2):
        raise BadInput(
            f"The checkpoint {name} is neither SD 1.x nor SD 2.x, the families that can be trained here; "
            "choose another one."
        )
    if model.model.conditioning_key != "crossattn":
        raise BadInput(
            f"The checkpoint {name} wants more than a prompt (it is made for inpainting, depth or editing); "
            "choose a plain one."
        )
    if model.parameterization not in ("eps", "v"):
        raise BadInput(
            f"The checkpoint {name} predicts {model.parameterization!r}; only eps and v can be trained."
        )


def _refuse_memory_settings() -> None:
    from modules import devices, shared

    if shared.cmd_opts.lowvram:
        raise BadInput(
            "The WebUI was started with --lowvram, which keeps no two layers of the U-Net in reach at once; "
            "start it with --medvram to train."
        )
    if devices.fp8:
        raise BadInput(
            "The weights are kept in 8 bits, through which no gradient flows; "
            'set "FP8 weight" to Disable under Settings, Optimizations, to train.'
        )
