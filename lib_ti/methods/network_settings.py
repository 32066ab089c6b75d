"""What the training of a network is told."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.errors import BadInput
from lib_ti.core.settings import option, with_default
from lib_ti.methods.kind import JobSettings
from lib_ti.methods.network_rates import RateSettings
from lib_ti.methods.vector_settings import VectorSettings


@dataclass(frozen=True)
class SizeSettings:
    """How large the matrices are."""

    rank: int = option(
        8,
        "Rank of the matrices (dim): more can hold more, and takes a larger file.",
        group="network",
        low=1,
        high=1024,
        basic=True,
    )
    alpha: float = option(
        8.0,
        "The network counts alpha / rank times; 0: the rank.",
        group="network",
        low=0,
        high=1024,
        label="Network alpha",
    )
    conv_rank: int = option(
        0,
        "Rank of the matrices of 3x3 convolutions; 0: those are left as they are.",
        group="network",
        low=0,
        high=1024,
        label="Convolution rank",
    )
    conv_alpha: float = option(
        0.0,
        "Alpha of the 3x3 convolutions; 0: their rank.",
        group="network",
        low=0,
        high=1024,
        label="Convolution alpha",
    )
    block_dims: str = option(
        "",
        "A rank for each of the U-Net's 25 blocks (23 for SDXL), in the place of the one above; at 0 a block "
        "is left as it is.",
        group="network",
        label="Ranks of blocks",
    )
    block_alphas: str = option(
        "", "An alpha for each of those blocks.", group="network", label="Alphas of blocks"
    )
    conv_block_dims: str = option(
        "",
        "A rank for the 3x3 convolutions of each block.",
        group="network",
        label="Convolution ranks of blocks",
    )
    conv_block_alphas: str = option(
        "",
        "An alpha for the 3x3 convolutions of each block.",
        group="network",
        label="Convolution alphas of blocks",
    )


@dataclass(frozen=True)
class WordSettings:
    """A word that is learned together with the network."""

    trigger_word: str = option(
        "",
        "What [name] in captions and templates stands for; a network needs none.",
        group="network",
        label="Trigger word",
        basic=True,
    )
    word_vectors: int = option(
        0,
        "Learn an embedding of so many vectors for the trigger word too; both are saved, each for itself and "
        "in one bundle. 0: none.",
        group="network",
        low=0,
        high=75,
        label="Vectors of the trigger word",
    )
    word_rate: float = option(
        5.0,
        "Learning rate of those vectors, as a multiple of the job's.",
        group="network",
        low=0.001,
        high=1000,
        label="Trigger word learning rate weight",
    )
    init_text: str = with_default(VectorSettings, "init_text", "*")


@dataclass(frozen=True)
class NetworkSettings(WordSettings, RateSettings, SizeSettings, JobSettings):
    """What the training of a network is told beside what every method is."""

    template: str = with_default(JobSettings, "template", "captions")
    learning_rate: str = with_default(JobSettings, "learning_rate", "5e-4:0.7, 1e-4")
    weighting: str = with_default(JobSettings, "weighting", "min-snr")
    clip: str = with_default(JobSettings, "clip", "norm")
    train_parts: str = option(
        "both",
        "What the network changes.",
        group="network",
        choices=("both", "unet", "text"),
        label="Train U-Net or text encoder",
        basic=True,
    )
    dropout: float = option(
        0.0,
        "Share of the numbers between the two matrices that each step leaves out.",
        group="network",
        low=0,
        high=0.95,
        label="Network dropout",
    )
    rank_dropout: float = option(
        0.0, "Share of the rank's rows that each step leaves out.", group="network", low=0, high=0.95
    )
    module_dropout: float = option(
        0.0, "Share of the layers that each step leaves out.", group="network", low=0, high=0.95
    )
    max_norm: float = option(
        0.0,
        "Largest norm of a layer's change, to which larger ones are scaled down after every step; 0: none.",
        group="network",
        low=0,
        high=1000,
        label="Scale weight norms",
    )
    network_weights: str = option(
        "", "File of a network to go on from.", group="network", label="Continue from network"
    )
    dim_from_weights: bool = option(
        False, "Take layers, ranks and alphas from that file.", group="network", label="Ranks from that file"
    )
    base_weights: str = option(
        "",
        "Files of networks that are on the model while this one learns the difference, each on a line of its "
        "own; one that ends in :0.5 is on at that strength.",
        group="network",
        several=True,
        label="Learn the difference to network",
    )
    base_multiplier: float = option(
        1.0,
        "How strongly those are on that do not say it.",
        group="network",
        low=-10,
        high=10,
        label="Their multiplier",
    )
    save_precision: str = option(
        "fp16",
        "Precision of the network's file; the job itself goes on in fp32.",
        group="saving",
        choices=("fp32", "fp16", "bf16"),
        label="Precision of the file",
    )
    picture_metadata: bool = option(
        True,
        "Say in the file which tags the captions have, and what the folders of pictures are called, as "
        "WebUIs show it.",
        group="saving",
        label="Tags in the file",
    )

    @property
    def trigger(self) -> str:
        return self.trigger_word

    @property
    def rank_unit(self) -> int:
        """Ranks of DyLoRA are multiples of this; 0: every step has the whole rank."""
        return 0


@dataclass(frozen=True)
class LoraSettings(NetworkSettings):
    """LierLa: linear layers and 1x1 convolutions."""


@dataclass(frozen=True)
class C3LierSettings(NetworkSettings):
    """C3Lier, which others call LoCon: 3x3 convolutions too."""

    conv_rank: int = with_default(SizeSettings, "conv_rank", 4)


@dataclass(frozen=True)
class DyLoraSettings(NetworkSettings):
    """DyLoRA: every step learns at another rank, so that any rank can be used afterwards."""

    unit: int = option(
        1, "Ranks to be had are multiples of this.", group="network", low=1, high=1024, label="DyLoRA unit"
    )
    keep_lower: bool = option(
        False,
        "Let a step learn the last unit of its rank only, and leave the lower rows as they are.",
        group="network",
        label="DyLoRA: learn the last unit only",
    )

    @property
    def rank_unit(self) -> int:
        return self.unit


def check_network(settings: NetworkSettings) -> None:
    """Raises BadInput where settings contradict each other, as far as can be told without a model."""
    unit = settings.rank_unit
    if unit and settings.rank % unit:
        raise BadInput(f"unit: got {unit}, expected a number that divides the rank, {settings.rank}.")
    if unit and (settings.conv_rank not in (0, settings.rank) or _by_block(settings)):
        raise BadInput(
            f"conv-rank: got {settings.conv_rank}, expected 0 or the rank, {settings.rank}, and no ranks of "
            "blocks: DyLoRA trains one rank in all layers."
        )
    if settings.dim_from_weights and not settings.network_weights:
        raise BadInput("dim-from-weights takes the ranks from a file; name it with network-weights.")
    if settings.word_vectors and not settings.trigger_word:
        raise BadInput("word-vectors are learned for a trigger word; give one with trigger-word.")
    if settings.word_vectors and "." in settings.trigger_word:
        raise BadInput(
            f"trigger-word: got {settings.trigger_word!r}, expected one without a point: programs that read "
            "bundles would end it there."
        )


def _by_block(settings: NetworkSettings) -> bool:
    return bool(settings.block_dims or settings.conv_block_dims)
