"""A CLIP text encoder of transformers, read as the WebUI reads it, with live vectors in its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lib_ti.core.errors import BadInput
from lib_ti.hosts import prompts as reading
from lib_ti.hosts.base import AS_GENERATED, Conditioning
from lib_ti.hosts.prompts import Chunk, Trigger, Vocabulary
from lib_ti.hosts.tokenizer import whole_words

LiveVectors = Mapping[str, torch.Tensor]  # trigger -> (n, d), any float dtype
_NONE: LiveVectors = MappingProxyType({})


def check_clip_skip(clip_skip: int, layers: int) -> None:
    """Raises BadInput."""
    if not 1 <= clip_skip <= layers:
        raise BadInput(
            f"Clip skip is {clip_skip}; this text encoder has {layers} layers: choose 1 to {layers}."
        )


class ClipText:
    """Prompts -> hidden states, differentiable to the live vectors. The caller freezes ``model``."""

    def __init__(
        self,
        model: CLIPTextModel | CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        pad_id: int | None = None,
        *,
        final_norm: bool = True,
    ) -> None:
        """``pad_id``: what fills a chunk after its end mark; the tokenizer's own where it is None.
        ``final_norm``: whether an earlier layer's states go through the last layer norm; not SDXL's."""
        self.model = model
        self._tokenizer = tokenizer
        self._final_norm = final_norm
        self._vocabulary = Vocabulary(
            tokenize=self.tokenize,
            start=tokenizer.bos_token_id,
            end=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id if pad_id is None else pad_id,
            comma=tokenizer.get_vocab()[",</w>"],
        )

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``, without start and end marks, however many."""
        return self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def words(self) -> dict[str, int]:
        """The whole words of the vocabulary -> their ids."""
        return whole_words(self._tokenizer.get_vocab())

    def token_vectors(self) -> torch.Tensor:
        """The vocabulary's input vectors, (49408, d), float32, no gradient; not to be written to."""
        return self.model.get_input_embeddings().get_parameter("weight").detach().float()

    def count_triggers(
        self, prompt: str, embeddings: LiveVectors, conditioning: Conditioning = AS_GENERATED
    ) -> dict[str, int]:
        """How often ``encode_and_pool`` would find each trigger in ``prompt``."""
        return reading.count_triggers(prompt, self._vocabulary, self._triggers(embeddings), conditioning)

    def places_cut(self, prompt: str, embeddings: LiveVectors, conditioning: Conditioning) -> int:
        """How many tokens and vectors of ``prompt`` are too much for ``conditioning``."""
        return reading.count_cut(prompt, self._vocabulary, self._triggers(embeddings), conditioning)

    def encode(
        self, prompts: Sequence[str], embeddings: LiveVectors = _NONE, clip_skip: int = 1
    ) -> torch.Tensor:
        """(b, 77 * chunks, d) in the model's dtype; ``clip_skip`` 1 is the last layer, 2 the one before.

        Raises BadInput for an embedding that does not fit the model, and for a clip skip past its layers.
        """
        return self.encode_and_pool(prompts, embeddings, clip_skip)[0]

    def encode_and_pool(
        self,
        prompts: Sequence[str],
        embeddings: LiveVectors = _NONE,
        clip_skip: int = 1,
        conditioning: Conditioning = AS_GENERATED,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As ``encode``, and of each prompt the last layer's state at the first chunk's end mark,
        projected, without emphasis: (b, p); None where the model has no projection.

        With a ``max_token_length`` of m in ``conditioning`` the states are (b, m + 2, d).
        """
        check_clip_skip(clip_skip, self.model.config.num_hidden_layers)
        rows = reading.chunk_batch(prompts, self._vocabulary, self._triggers(embeddings), conditioning)
        chunks = list(dict.fromkeys(chunk for row in rows for chunk in row))
        hidden, pooled = self._run(chunks, embeddings, clip_skip)
        encoded = {
            chunk: _emphasise(states, chunk.weights, keep_mean=conditioning.emphasis != "sd-scripts")
            for chunk, states in zip(chunks, hidden.unbind(), strict=True)
        }
        # Joined from slices, since the backward of an indexed gather may add in no fixed order.
        join = _joined_within_marks if conditioning.max_token_length else torch.cat
        joined = torch.stack([join([encoded[chunk] for chunk in row]) for row in rows])
        if pooled is None:
            return joined, None
        of_chunk = dict(zip(chunks, pooled.unbind(), strict=True))
        return joined, torch.stack([of_chunk[row[0]] for row in rows])

    def _triggers(self, embeddings: LiveVectors) -> list[Trigger]:
        width = self.model.config.hidden_size
        for name, vectors in embeddings.items():
            if vectors.ndim != 2 or vectors.shape[1] != width:
                raise BadInput(
                    f"The embedding {name!r} has the shape {tuple(vectors.shape)}; the text encoder of this "
                    f"model takes (vectors, {width}): use an embedding made for this family of models."
                )
        return reading.tokenize_triggers({name: len(v) for name, v in embeddings.items()}, self._vocabulary)

    def _run(
        self, chunks: Sequence[Chunk], embeddings: LiveVectors, clip_skip: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(len(chunks), 77, d) without emphasis, and what is pooled, (len(chunks), p)."""
        token_ids = torch.tensor([chunk.token_ids for chunk in chunks], device=self.model.device)
        with _splicing(self.model.get_input_embeddings(), chunks, embeddings):
            output = self.model(input_ids=token_ids, output_hidden_states=clip_skip > 1)
        pooled = getattr(output, "text_embeds", None)
        if clip_skip == 1:
            return output.last_hidden_state, pooled
        hidden = output.hidden_states[-clip_skip]
        return self.model.text_model.final_layer_norm(hidden) if self._final_norm else hidden, pooled


@contextmanager
def _splicing(token_embedding: nn.Module, chunks: Sequence[Chunk], embeddings: LiveVectors) -> Iterator[None]:
    """While open, ``token_embedding`` gives the live vectors at the chunks' splices."""
    rows: list[int] = []
    columns: list[int] = []
    vectors: list[torch.Tensor] = []
    for row, chunk in enumerate(chunks):
        for splice in chunk.splices:
            live = embeddings[splice.trigger][splice.first : splice.end]
            rows += [row] * len(live)
            columns += range(splice.offset, splice.offset + len(live))
            vectors.append(live)

    def splice_in(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        place = torch.tensor([rows, columns], device=output.device)
        return output.index_put((place[0], place[1]), torch.cat(vectors).to(output))

    if not vectors:
        yield
        return
    handle = token_embedding.register_forward_hook(splice_in)
    try:
        yield
    finally:
        handle.remove()


def _joined_within_marks(chunks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Chunks of (77, d) as sd-scripts joins them: one start mark, the places of all, one end mark."""
    return torch.cat([chunks[0][:1], *(chunk[1:-1] for chunk in chunks), chunks[-1][-1:]])


def _emphasise(hidden: torch.Tensor, weights: Sequence[float], *, keep_mean: bool) -> torch.Tensor:
    """One chunk's states (77, d) times their weights; ``keep_mean``: then scaled back to their mean, which is
    the WebUI's "Original" way."""
    if all(weight == 1.0 for weight in weights):
        return hidden
    # float32, so that a half precision model rounds the product once.
    scale = torch.tensor(weights, dtype=torch.float32, device=hidden.device)[:, None]
    weighted = hidden * scale
    if keep_mean:
        weighted = weighted * (hidden.mean() / weighted.mean())
    return weighted.to(hidden.dtype)
