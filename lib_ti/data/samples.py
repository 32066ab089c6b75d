"""What a training step is fed: latents, noise, timesteps and prompts, from seed and step alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from lib_ti.core.noise import draw_noise, draw_timesteps
from lib_ti.core.randomness import generator_at
from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.captions import plain_caption, vary_caption
from lib_ti.data.dataset import Subset, name_for, subset_of
from lib_ti.data.latents import LatentCache
from lib_ti.data.templates import fill

# Places of random numbers beside the steps, which count from 1.
_ORDER = 0


@dataclass(frozen=True)
class Batch:
    """``latents``: clean, scaled, (b, c, h, w), float32; ``timesteps``: int64, (b,); on the CPU.

    ``noise`` is what the U-Net is to find, ``input_noise`` what the latents are mixed with. ``weight``: what
    each sample's loss counts, (b,). ``mask``: what each place of it counts, (b, 1, h, w), as a rule with a
    mean of 1; None: all places alike. ``sizes``: what SDXL is told of each picture's size, (b, 6); None: the
    latents' own.
    """

    prompts: Sequence[str]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    input_noise: torch.Tensor
    weight: torch.Tensor
    mask: torch.Tensor | None = None
    sizes: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def prompts_of(self, sample: int) -> Sequence[str]:
        return [self.prompts[sample]]

    def split(self) -> list[Batch]:
        """Its samples, each as a batch of one."""
        return [
            replace(
                self,
                prompts=self.prompts_of(i),
                **{
                    told.name: value[i : i + 1]
                    for told in fields(self)
                    if torch.is_tensor(value := getattr(self, told.name))
                },
            )
            for i in range(len(self))
        ]

    def resized(self, side: int) -> Batch:
        """As many samples, prompts and timesteps, with latents of ``side`` by ``side`` that show nothing."""

        def blank(tensor: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*tensor.shape[:2], side, side, dtype=tensor.dtype)

        return replace(
            self,
            latents=blank(self.latents),
            noise=blank(self.noise),
            input_noise=blank(self.input_noise),
            mask=None if self.mask is None else blank(self.mask),
        )


class TrainingSet:
    """Pictures, captions and template lines; ``draw`` makes the batches of a step."""

    regular_line = "[filewords]"  # of regularisation pictures

    def __init__(
        self,
        cache: LatentCache,
        captions: Sequence[str],
        lines: Sequence[str],
        trigger: str,
        settings: TrainSettings,
        timesteps: int = 1000,
        subsets: Sequence[Subset] | None = None,
        others: Sequence[str] = (),
        held: Sequence[int] = (),
    ) -> None:
        """``subsets``: of every picture; None: as the settings say of all. ``others``: the words beside
        ``trigger``. ``held``: the rows of pictures that are held out: no step of the job shows them, but the
        steps after its last do, which evaluations take."""
        self.cache = cache
        self.subsets = subsets or [subset_of(settings, Path())] * len(captions)
        self._captions = captions
        self.captions = [
            plain_caption(caption, subset.captions)
            for caption, subset in zip(captions, self.subsets, strict=True)
        ]
        self.lines = lines
        self.trigger = trigger
        self.others = others
        self.settings = settings
        self.timesteps = timesteps
        self.held = held
        rows = [(row, subset) for row, subset in enumerate(self.subsets) for _ in range(subset.repeats)]
        out = frozenset(held)
        self._own = [row for row, subset in rows if not subset.regularisation and row not in out]
        self._regular = [row for row, subset in rows if subset.regularisation]
        self._epoch_length = len(self._own) * (2 if self._regular else 1)
        self._step_length = settings.batch_size * settings.accumulation

    @property
    def steps_of_epoch(self) -> int:
        """How many steps show every picture."""
        return steps_to_show(len(self._own), bool(self._regular), self.settings)

    @property
    def pictures(self) -> list[int]:
        """The rows of the pictures that are learned from, each once."""
        return list(dict.fromkeys(self._own))

    def only(self, row: int) -> TrainingSet:
        """The same, with one picture for every place of every step."""
        alone = copy(self)
        alone._own, alone._regular, alone._epoch_length, alone.held = [row], [], 1, ()
        return alone

    def rows(self, step: int) -> list[int]:
        """The pictures of a step: every epoch is a permutation, a step may straddle two."""
        if self.held and step > self.settings.steps:
            return self._held_rows(step - self.settings.steps)
        count = self._epoch_length
        first, last = (step - 1) * self._step_length, step * self._step_length
        epochs = range(first // count, (last - 1) // count + 1)
        stream = [row for epoch in epochs for row in self._shuffled(epoch)]
        start = first - epochs.start * count
        return stream[start : start + self._step_length]

    def looked_at(self, most: int) -> Sequence[int]:
        """The first ``most`` rows of those that are held out; 0: all."""
        return self.held[:most] if most else self.held

    def _held_rows(self, number: int) -> list[int]:
        """The pictures of evaluation batch ``number`` (from 1): those that are looked at, in turn."""
        looked = self.looked_at(self.settings.evaluate_pictures)
        first = (number - 1) * self._step_length
        return [looked[place % len(looked)] for place in range(first, first + self._step_length)]

    def _shuffled(self, epoch: int) -> list[int]:
        """Every picture, and as many regularisation pictures, which take turns from epoch to epoch."""
        count = len(self._own)
        rows = list(self._own)
        if self._regular:
            rows += [self._regular[(epoch * count + i) % len(self._regular)] for i in range(count)]
        order = torch.randperm(len(rows), generator=generator_at(self.settings.seed, _ORDER, epoch))
        return [rows[place] for place in order.tolist()]

    def draw(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step ``step`` (from 1), each of one size of latents.

        Pictures, prompts, noise and timesteps are drawn for the whole step, then cut: accumulation sees
        what one large batch would. Buckets do not change which pictures meet in a step, so every picture
        weighs the same; a step whose pictures differ in size makes smaller batches, and more of them.
        """
        settings, drawn = self.settings, self.rows(step)
        generator = generator_at(settings.seed, step)
        prompts = self._prompts(step, drawn, generator)
        views = [int(torch.randint(len(self.cache.mean[row]), (1,), generator=generator)) for row in drawn]
        batches = []
        for places in _alike([self.cache.size_of(row) for row in drawn]):
            rows = [(drawn[place], views[place]) for place in places]
            latents = torch.stack([self.cache.mean[row][view] for row, view in rows])
            if settings.latents == "sampled":
                std = torch.stack([self.cache.std[row][view] for row, view in rows])
                latents = latents + std * torch.randn(latents.shape, generator=generator)
            noise, input_noise = draw_noise(latents, generator, settings)
            timesteps = draw_timesteps(len(rows), generator, settings, self.timesteps)
            weight = torch.tensor([self._weight(row) for row, _ in rows])
            mask, sizes = self._mask(rows, latents), self._sizes(rows)
            for i in range(0, len(rows), settings.batch_size):
                cut = slice(i, i + settings.batch_size)
                batches.append(
                    Batch(
                        prompts=[prompts[place] for place in places[cut]],
                        latents=latents[cut],
                        noise=noise[cut],
                        timesteps=timesteps[cut],
                        input_noise=input_noise[cut],
                        weight=weight[cut],
                        mask=None if mask is None else mask[cut],
                        sizes=None if sizes is None else sizes[cut],
                    )
                )
        return batches

    def _weight(self, row: int) -> float:
        return self.settings.prior_weight if self.subsets[row].regularisation else 1.0

    def _mask(self, rows: Sequence[tuple[int, int]], latents: torch.Tensor) -> torch.Tensor | None:
        masks = self.cache.mask
        if not any(row in masks for row, _ in rows):
            return None
        everywhere = torch.ones_like(latents[0, :1])
        return torch.stack([masks[row][view] if row in masks else everywhere for row, view in rows])

    def _sizes(self, rows: Sequence[tuple[int, int]]) -> torch.Tensor | None:
        if self.settings.size_conditioning == "trained":
            return None
        return torch.stack([self.cache.sizes[row][view] for row, view in rows])

    def prompts(self, step: int) -> list[str]:
        """The prompts of step ``step``, in the order of its pictures."""
        return self._prompts(step, self.rows(step), generator_at(self.settings.seed, step))

    def _prompts(self, step: int, rows: Sequence[int], generator: torch.Generator) -> list[str]:
        first = (step - 1) * self._step_length
        epochs = ((first + place) // self._epoch_length + 1 for place in range(len(rows)))
        return [self._prompt(row, step, epoch, generator) for row, epoch in zip(rows, epochs, strict=True)]

    def _prompt(self, row: int, step: int, epoch: int, generator: torch.Generator) -> str:
        subset, line = self.subsets[row], self.regular_line
        if not subset.regularisation:
            line = self.lines[int(torch.randint(len(self.lines), (1,), generator=generator))]
        progress = step - 1, self.settings.steps
        caption = vary_caption(self._captions[row], subset.captions, generator, epoch, progress)
        return fill(line, name=self._name(subset), filewords=caption, others=self.others)

    @property
    def names(self) -> list[str]:
        """What [name] stands for with each of the captions."""
        return [self._name(subset) for subset in self.subsets]

    def _name(self, subset: Subset) -> str:
        return name_for(subset, self.trigger, self.others)


def steps_to_show(pictures: int, regularised: bool, settings: TrainSettings) -> int:
    """The steps of an epoch: of so many pictures, repeats counted, each once, and as many regularisation
    pictures where there are any."""
    shown = pictures * (2 if regularised else 1)
    return -(-shown // (settings.batch_size * settings.accumulation))


def _alike(keys: Sequence[Hashable]) -> Iterable[list[int]]:
    """The places of equal keys together, in the order in which the keys first occur."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return groups.values()
