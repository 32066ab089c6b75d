"""Networks of the LoRA family: LierLa, C3Lier and DyLoRA, with a word of their own if one is wanted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.optimizers import KNOWN, known_as
from lib_ti.core.precision import DTYPES
from lib_ti.data.samples import Batch, TrainingSet
from lib_ti.data.templates import all_prompts
from lib_ti.formats.embedding import Embedding, Family
from lib_ti.hosts.base import Condition, Embeddings, Host
from lib_ti.methods.denoising import denoising_losses, noise_schedule
from lib_ti.methods.kind import Product, Words, Writer
from lib_ti.methods.network_file import metadata_of
from lib_ti.methods.network_plan import base_networks, dropout_of, layer_share, plan_sizes, up_ratio
from lib_ti.methods.network_settings import DyLoraSettings, NetworkSettings, check_network
from lib_ti.methods.starts import initial_vectors, words_left_out
from lib_ti.methods.textual_inversion import (
    as_embedding,
    found_in,
    room_taken,
    tokens_found,
    told_found,
    writer_of,
)
from lib_ti.methods.vector_settings import VectorSettings
from lib_ti.networks.algebra import LowRank
from lib_ti.networks.attach import attach
from lib_ti.networks.block_numbers import filled_up
from lib_ti.networks.files import Network, read_network, write_network
from lib_ti.networks.layers import Layer, find_layers
from lib_ti.networks.trainable import Learning, Size, Turn, rank_of_step

BUNDLE_SUFFIX = "-bundle"
_PROMPTS_KEPT = 256  # conditions of prompts; one of SD1's takes 0.2 MB
_IN_FRONT = "put it in front of every caption (caption-prefix '[name],'), or [name] into template or captions"
_DOWN, _UP, _ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


def words_of(settings: NetworkSettings) -> Words:
    """Raises BadInput where the settings contradict each other."""
    check_network(settings)
    return Words(settings.trigger_word if settings.word_vectors else "")


def others_of(settings: NetworkSettings) -> tuple[Product, ...]:
    network, bundle = Product(settings.name, "network"), Product(settings.name + BUNDLE_SUFFIX, "bundle")
    return (network, bundle) if settings.word_vectors else (network,)


def initial_word(host: Host, settings: NetworkSettings) -> Embeddings:
    """The vectors of the trigger word, where it has any. Raises BadInput."""
    if not settings.word_vectors:
        return {}
    return {settings.trigger_word: initial_vectors(host, _word_settings(settings))}


def _word_settings(settings: NetworkSettings) -> VectorSettings:
    """What is said of the trigger word's vectors, as textual inversion says it."""
    return VectorSettings(
        name=settings.trigger_word,
        vectors=settings.word_vectors,
        init_text=settings.init_text,
        seed=settings.seed,
    )


def vectors_of(parameters: Mapping[str, torch.Tensor], settings: NetworkSettings) -> Embeddings:
    """The loop's parameters that are the trigger word's."""
    if not settings.word_vectors:
        return {}
    return {settings.trigger_word: {name: p for name, p in parameters.items() if "." not in name}}


def known_weights(host: Host, settings: NetworkSettings) -> dict[str, LowRank]:
    """By layer, of the file that training goes on from. Raises BadInput where it holds anything else."""
    if not settings.network_weights:
        return {}
    file = Path(settings.network_weights).expanduser()
    family = host.info.family
    known, network = {}, read_network(file, family)
    if network.family not in (None, family):
        raise BadInput(f"network-weights: {file.name} was made for {network.family}, this model is {family}.")
    for name, why in network.left_out.items():
        raise BadInput(f"network-weights: {name} in {file.name} is not understood: {why}.")
    for name, update in network.updates.items():
        if not isinstance(update, LowRank) or update.mid is not None or update.bias is not None:
            raise BadInput(f"network-weights: {name} in {file.name} is no LoRA, and only LoRA is trained on.")
        known[name] = update
    return known


def sizes_of(
    layers: Mapping[str, Layer], settings: NetworkSettings, host: Host, known: Mapping[str, LowRank]
) -> dict[str, Size]:
    """The layers to train, with the size of each update. Raises BadInput where there are none, or where
    ``known`` has other ranks."""
    sizes = plan_sizes(layers, settings, host.info.family)
    if settings.dim_from_weights:
        sizes = {name: Size(update.rank, update.rank * update.scale) for name, update in known.items()}
        if strange := sorted(sizes.keys() - layers.keys()):
            raise BadInput(f"network-weights: this model has no layer {strange[0]}; it is of another family.")
    if not sizes:
        raise BadInput("these settings leave no layer to train; see train-parts, ranks and block weights.")
    for name, size in sizes.items():
        if name in known and known[name].rank != size.rank:
            raise BadInput(
                f"network-weights has rank {known[name].rank} in {name}, the settings say {size.rank}; give "
                "that rank, or take the file's with dim-from-weights."
            )
    return sizes


class NetworkTraining:
    """The method for the training loop: its parameters are the matrices of the network, after the vectors
    of the trigger word if it has any."""

    def __init__(
        self, host: Host, settings: NetworkSettings, samples: TrainingSet, start: Embeddings
    ) -> None:
        """Raises BadInput where a file that the settings name does not fit."""
        self.host, self.settings, self.samples = host, settings, samples
        self.alphas_cumprod = noise_schedule(host, settings)
        self.parts = host.parts()
        self.layers = find_layers(self.parts, host.info.family)
        known = known_weights(host, settings)
        self.turn = Turn()
        self.updates = {
            name: Learning.begin(self.layers[name], size, settings.seed, self.turn, dropout_of(settings))
            for name, size in sizes_of(self.layers, settings, host, known).items()
        }
        _go_on(self.updates, known)
        device = host.info.device
        self.vectors = {
            encoder: vectors.to(device, copy=True).requires_grad_()
            for word in start.values()
            for encoder, vectors in word.items()
        }
        host.set_embeddings(vectors_of(self.parameters(), settings))
        self._started = time.time()
        self._place = (0, 0)  # step, and micro-batch of it
        text_learns = bool(self.vectors) or any(self.layers[name].part != "unet" for name in self.updates)
        self._encode = host.encode_prompts if text_learns else self._remembered
        self._one = lru_cache(_PROMPTS_KEPT)(lambda prompt: host.encode_prompts([prompt]))

    def parameters(self) -> Mapping[str, torch.Tensor]:
        matrices = {
            f"{name}.{key}": matrix
            for name, update in self.updates.items()
            for key, matrix in ((_DOWN, update.down), (_UP, update.up))
        }
        return {**self.vectors, **matrices}

    def shares(self) -> Mapping[str, float]:
        settings, family = self.settings, self.host.info.family
        shares = dict.fromkeys(self.vectors, settings.word_rate)
        for name in self.updates:
            share = layer_share(self.layers[name], settings, family)
            ratio = up_ratio(self.layers[name], settings)
            shares |= {f"{name}.{_DOWN}": share, f"{name}.{_UP}": share * ratio}
        return shares

    def draw(self, step: int) -> list[Batch]:
        self._place = (step, 0)
        return self.samples.draw(step)

    def losses(self, batch: Batch) -> torch.Tensor:
        self._take_turn()
        condition = self._encode(batch.prompts)
        return denoising_losses(self.host, condition, batch, self.alphas_cumprod, self.settings)

    def _take_turn(self) -> None:
        """What the network does in this micro-batch, from seed and step alone."""
        settings, (step, micro) = self.settings, self._place
        self._place = (step, micro + 1)
        self.turn.place = (settings.seed, step, micro)
        if isinstance(settings, DyLoraSettings):
            self.turn.rank = rank_of_step(settings.seed, step, settings.rank, settings.unit)
            self.turn.learned = settings.unit if settings.keep_lower else None

    def _remembered(self, prompts: Sequence[str]) -> Condition:
        """Of prompts whose text encoder does not learn: each is encoded once."""
        rows = [self._one(prompt) for prompt in prompts]
        if len({row.hidden.shape[1] for row in rows}) > 1:
            return self.host.encode_prompts(prompts)  # shorter ones are filled up as the host does it
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Condition(torch.cat([row.hidden for row in rows]), torch.cat(pooled) if pooled else None)

    @contextmanager
    def attached(self) -> Iterator[None]:
        settings, family = self.settings, self.host.info.family
        with ExitStack() as undo:
            for base, multiplier in base_networks(settings):
                undo.enter_context(attach(self.parts, base, multiplier, family=family))
            network = Network(settings.name, family, self.updates)
            undo.enter_context(attach(self.parts, network, family=family))
            yield

    def after_step(self) -> None:
        if self.settings.max_norm:
            for update in self.updates.values():
                update.limit_norm(self.settings.max_norm)

    def export(self, parameters: Mapping[str, torch.Tensor], step: int, job: str) -> list[Writer]:
        network = self._tensors(parameters)
        metadata = metadata_of(self.host, self.settings, self.samples, step, job, self._started)
        write = partial(write_network, tensors=network, metadata=metadata)
        if not self.vectors:
            return [write]
        word = {name: parameters[name] for name in self.vectors}
        trigger = self.settings.trigger_word
        embedding = as_embedding(word, self.host, self.settings, step, job, name=trigger)
        bundle = {**network, **bundled(embedding)}
        return [writer_of(embedding), write, partial(write_network, tensors=bundle, metadata=metadata)]

    def _tensors(self, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        dtype, tensors = DTYPES[self.settings.save_precision], {}
        for name, update in self.updates.items():
            for key in (_DOWN, _UP):
                tensors[f"{name}.{key}"] = parameters[f"{name}.{key}"].detach().to("cpu", dtype, copy=True)
            tensors[f"{name}.{_ALPHA}"] = torch.tensor(update.alpha, dtype=dtype)
        return tensors


@torch.no_grad()
def _go_on(updates: Mapping[str, Learning], known: Mapping[str, LowRank]) -> None:
    """Begin where ``known`` ends; the scales may differ."""
    for name in updates.keys() & known.keys():
        ours, theirs = updates[name], known[name]
        if not theirs.fits(_shape(ours)):
            raise BadInput(f"network-weights: {name} does not fit this model; it is of another family.")
        ours.down.copy_(theirs.down.reshape(ours.down.shape))
        ours.up.copy_(theirs.up.reshape(ours.up.shape) * (theirs.scale / ours.scale))


def _shape(update: LowRank) -> tuple[int, ...]:
    """Of the weight that it changes."""
    return (len(update.up), *update.down.shape[1:])


def bundled(embedding: Embedding) -> dict[str, torch.Tensor]:
    """An embedding as tensors of a network's file, where the WebUI (1.7 and later) finds it."""
    start = f"bundle_emb.{embedding.name}."
    if len(embedding.vectors) > 1:
        return {start + encoder: vectors for encoder, vectors in embedding.vectors.items()}
    return {f"{start}string_to_param.*": vectors for vectors in embedding.vectors.values()}


def check_rates(layers: Sequence[Layer], settings: NetworkSettings, family: Family) -> None:
    """Raises BadInput where the optimizer cannot give the layers the rates they are to have."""
    shares = {layer_share(layer, settings, family) for layer in layers}
    ratios = {up_ratio(layer, settings) for layer in layers}
    if known_as(settings.optimizer) is KNOWN["Prodigy"] and (len(shares) > 1 or ratios != {1.0}):
        raise BadInput(
            "optimizer Prodigy finds one rate for everything; set unet-rate, text-rate and up-rate to 1, and "
            "give no block weights and no other rates of parts."
        )


def notices(layers: Sequence[Layer], settings: NetworkSettings, family: Family) -> list[str]:
    """What settings do otherwise than they seem to say."""
    said = filled_up(settings.down_lr_weight, settings.mid_lr_weight, settings.up_lr_weight, family)
    fused = sum(layer.attention is not None for layer in layers)
    if settings.dropout and fused:
        said.append(
            f"dropout does nothing in {fused} layers of fused attention, which are changed in their weight; "
            "rank-dropout and module-dropout act there too"
        )
    return said


def _left_out(known: Mapping[str, LowRank], sizes: Mapping[str, Size]) -> list[str]:
    """Of the file that training goes on from. Raises BadInput where that is all."""
    left = sorted(known.keys() - sizes.keys())
    if left and len(left) == len(known):
        raise BadInput(
            f"network-weights: none of its {len(known)} layers is trained here, such as {left[0]}."
        )
    if not left:
        return []
    return [f"{len(left)} of the {len(known)} layers in network-weights are not trained here, and left out"]


def preflight(
    host: Host, settings: NetworkSettings, lines: Sequence[str], captions: Sequence[str]
) -> list[str]:
    """What should be said before the start. Raises BadInput where nothing could be learned."""
    layers = find_layers(host.parts(), host.info.family)
    known = known_weights(host, settings)
    sizes = sizes_of(layers, settings, host, known)
    said = list[str]()
    for base, multiplier in base_networks(settings):
        with attach(host.parts(), base, multiplier, family=host.info.family) as attached:
            partly = attached.network.left_out or attached.unmatched
            said += [f"base network {attached.network.name}: {attached.report}"] if partly else []
    check_rates([layers[name] for name in sizes], settings, host.info.family)
    in_unet = sum(layers[name].part == "unet" for name in sizes)
    ranks = sorted({size.rank for size in sizes.values()})
    rank = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else f"{ranks[0]}"
    said += [f"network of {in_unet} layers of the U-Net and {len(sizes) - in_unet} of text, rank {rank}"]
    said += notices([layers[name] for name in sizes], settings, host.info.family)
    said += _left_out(known, sizes)
    if not settings.trigger_word and any("[name]" in text for text in (*lines, *captions)):
        said.append("[name] stands for nothing in the captions or the template: no trigger-word is given")
    if settings.trigger_word:
        said += _said_of_trigger(host, settings, all_prompts(lines, settings.trigger, captions))
    return said


def _said_of_trigger(host: Host, settings: NetworkSettings, prompts: Sequence[str]) -> list[str]:
    """In how many prompts the trigger word stands, and what its vectors leave out. Raises BadInput where it
    stands in none: prompts would call what was never learned with it."""
    word = settings.trigger_word
    if not settings.word_vectors:
        tokens = host.tokenize(word)
        found = sum(tokens_found(host.tokenize(prompt), tokens) > 0 for prompt in prompts)
        return [told_found(word, found, prompts, _IN_FRONT)]
    like = _word_settings(settings)
    return [
        found_in(host, word, prompts, _IN_FRONT),
        *words_left_out(host, "init-text", settings.init_text, like),
        *room_taken(host, word, settings.word_vectors, prompts),
    ]
