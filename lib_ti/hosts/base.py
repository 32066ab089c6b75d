"""The seam to a host: what a program that holds a Stable Diffusion model must answer.

Everything above this seam (loop, loss, files, settings) knows no host; everything that differs
between programs is a method here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.names import leads_inside
from lib_ti.formats.embedding import Family
from lib_ti.networks.layers import Parts

Prediction = Literal["eps", "v"]

# Live embeddings: trigger -> text encoder name -> vectors (n, d), float32. Gradient reaches them.
Embeddings = Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class ModelInfo:
    """What the loaded model is. ``alphas_cumprod``: float32, (1000,), on the CPU."""

    name: str
    sha256: str  # of the checkpoint file; "" where it is not one file
    family: Family
    prediction: Prediction
    alphas_cumprod: torch.Tensor
    text_encoders: Mapping[str, int]  # name ("clip_l", "clip_h", "clip_g") -> width d
    latent_channels: int
    latent_scale: float  # latents are the VAE's, times this
    pixels_per_latent: int  # 8
    native_size: int  # pixels: the side the model was trained at
    device: torch.device
    dtype: torch.dtype  # of the U-Net's weights
    prediction_told: str = ""  # a sentence: by what the host knows it; "": the program settled it


@dataclass(frozen=True)
class LatentDistribution:
    """Of a batch of images, already scaled by ``latent_scale``; (b, c, h, w), float32."""

    mean: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True)
class Condition:
    """What the U-Net listens to. ``hidden``: (b, n, d), n places of the prompt; ``pooled``: SDXL only, and
    ``sizes``, (b, 6): height and width of the picture, top and left of its crop, height and width now, in
    pixels; None: of an uncut picture of the latents' size.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None = None
    sizes: torch.Tensor | None = None

    def __getitem__(self, rows: torch.Tensor | slice) -> Condition:
        """The condition of some of the prompts."""
        pooled, sizes = (part if part is None else part[rows] for part in (self.pooled, self.sizes))
        return Condition(self.hidden[rows], pooled, sizes)


@dataclass(frozen=True)
class Economy:
    """How a lent model runs: what it does without to need less memory. The answers stay the same."""

    checkpointing: bool = False  # blocks are computed again in the backward pass
    attention: str = "model"  # as the host has it; or "sdpa", "sliced", "xformers"
    vae_away: bool = False  # the VAE is on the device while it works, and not between


@dataclass(frozen=True)
class Conditioning:
    """How a lent model reads prompts, and what SDXL is told of a picture's size, while it trains. Without
    anything: as it generates."""

    emphasis: str = "webui"  # the program's own; or "none": brackets are signs; or "sd-scripts"
    max_token_length: int = 0  # 75, 150 or 225, in sd-scripts' chunks; 0: any, in the program's chunks
    own_sizes: bool = False  # conditions may come with sizes


AS_GENERATED = Conditioning()


@dataclass(frozen=True)
class SampleRequest:
    """One batch of pictures to draw; picture i takes seed ``seeds[i]``, whatever the batch is."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    negative_prompt: str = ""
    steps: int = 20
    cfg_scale: float = 5.0
    width: int = 512  # pixels, multiple of 8
    height: int = 512
    sampler: str = ""  # one the host knows by that name; "": DPM++ 2M with Karras' noise levels


@dataclass(frozen=True)
class Describing:
    """How a program's interrogator puts pictures into words: "deepbooru" in tags, "blip" in a sentence.

    The rest is for tags: how sure it must be of one, 0..1; whether the surest comes first, or the alphabet
    sorts; spaces in the place of underscores; brackets escaped, so that they are no emphasis in a prompt.
    """

    by: str
    threshold: float = 0.5
    by_score: bool = True
    spaces: bool = True
    escape: bool = True


class Host(Protocol):
    """A program whose model we borrow."""

    @property
    def info(self) -> ModelInfo: ...

    def lend(self) -> AbstractContextManager[None]:
        """Freeze the model and switch off what would spoil training; on exit, also after an error,
        everything is exactly as before."""

    def economise(self, economy: Economy) -> None:
        """How the model runs from now to the end of the loan, or to the next call. Raises BadInput for
        what is not installed."""

    def set_conditioning(self, conditioning: Conditioning) -> None:
        """How prompts are encoded and counted from now to the end of the loan, but for ``sample``. Raises
        BadInput for what this program does not do."""

    def parts(self) -> Parts:
        """The living U-Net and text encoders, whose layers a network changes; in the program's own layout."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``, without start and end marks."""

    def words(self) -> Mapping[str, int]:
        """The tokens that are whole words, of at least three plain letters -> their ids."""

    def token_vectors(self, encoder: str) -> torch.Tensor:
        """The vocabulary's input vectors of one text encoder, (49408, d), float32, no gradient."""

    def set_embeddings(self, embeddings: Embeddings) -> None:
        """The triggers that prompts may call from now on; the longest token match wins."""

    def count_triggers(self, prompt: str) -> Mapping[str, int]:
        """How often each trigger of ``set_embeddings`` is found in ``prompt``."""

    def places_cut(self, prompt: str) -> int:
        """How many tokens and vectors of ``prompt`` are left out, for it is too long."""

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """As generation reads them (emphasis, chunks, embeddings, clip skip), unless ``set_conditioning`` was
        told otherwise; differentiable."""

    def encode_images(self, pixels: torch.Tensor) -> LatentDistribution:
        """``pixels``: (b, 3, h, w), float32, -1..1."""

    def predict_noise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        """The U-Net's raw answer (eps or v), float32, (b, c, h, w); ``timesteps``: int64, (b,)."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents -> pixels -1..1, (b, 3, 8h, 8w), float32; differentiable."""

    def describer(self, asked: Describing) -> AbstractContextManager[Callable[[Image.Image], str]]:
        """The program's own interrogator, at hand for so long: RGB picture -> caption. Raises BadInput where
        the program has none, StudioError where it cannot be loaded."""

    def sampler_names(self) -> Sequence[str]:
        """What a request may name as its sampler."""

    def sample(self, request: SampleRequest) -> list[Image.Image]:
        """Draw pictures; leaves every global random state as it was."""


@dataclass(frozen=True)
class Folders:
    """Where jobs and tools read and write. Of templates of one name the earlier folder's comes first."""

    jobs: Path
    embeddings: Path
    networks: Path
    templates: tuple[Path, ...]
    datasets: Path  # a folder of pictures and captions each, made by tools
    cards: Path
    checkpoints: tuple[Path, ...]  # what is written goes into the first
    # Below which pictures and files of settings are read; None: anywhere, nobody else reaches the program.
    readable: tuple[Path, ...] | None = None

    @property
    def inbox(self) -> Path:
        """Where a stranger's files wait: no program reads what lies there by itself."""
        return self.cards.parent / "inbox"

    def check_readable(self, path: Path) -> None:
        """Raises BadInput for a place that somebody else than this computer's user may not name, whether
        there is something or not."""
        if self.readable is None:
            return
        own = (self.datasets, self.jobs, self.embeddings, self.networks, *self.checkpoints)
        if not any(leads_inside(path, folder) for folder in (*self.readable, *own)):
            raise BadInput(
                f"{path} may not be read: others can reach this program, so it reads data sets of its own, "
                "and folders below those that its settings name for that (Settings, TI Studio)."
            )


class Place(Protocol):
    """A program that lends its model to one job at a time, as a workshop sees it."""

    def folders(self) -> Folders: ...

    def look(self) -> Host:
        """The model as it is now, for what only reads it. Raises BadInput where it cannot be trained."""

    def turn(self, clip_skip: int) -> AbstractContextManager[Host]:
        """Wait until nobody else uses the model, then hold it. Raises BadInput as ``look`` does."""

    def interrupted(self) -> bool:
        """Whether the program's own button was pressed since the turn began."""

    def sampler_names(self) -> Sequence[str]:
        """As the host's, without waiting for a model."""

    def published(self, file: Path, preview: Path | None, description: str) -> None:
        """The embedding or network is new, or changed: from the next prompt on the program uses it."""

    def checkpoints_changed(self) -> None:
        """There is one more in the folders, or another one of its name: the program's list shows it."""
