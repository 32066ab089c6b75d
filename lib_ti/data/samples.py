"""What a training step is fed: latents, noise, timesteps and prompts, from seed and step alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_ti.core.noise import draw_noise, draw_timesteps
from lib_ti.core.randomness import generator_at
from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.captions import drop_tags, shuffle_tags
from lib_ti.data.images import load_image
from lib_ti.data.templates import fill

# Places of random numbers beside the steps, which count from 1.
_ORDER = 0


@dataclass(frozen=True)
class Batch:
    """``latents``: clean, scaled, (b, c, h, w), float32; ``timesteps``: int64, (b,); on the CPU.

    ``noise`` is what the U-Net is to find, ``input_noise`` what the latents are mixed with.
    """

    prompts: Sequence[str]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    input_noise: torch.Tensor

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class LatentCache:
    """``mean`` and ``std`` of every picture, (n, views, c, h, w); view 1 is the mirrored one."""

    mean: torch.Tensor
    std: torch.Tensor


def cache_latents(
    paths: Sequence[Path],
    width: int,
    height: int,
    flip: bool,
    encode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> LatentCache:
    """Encode every picture once; ``encode``: pixels (b, 3, h, w) -> mean and std, scaled.

    One picture (and its mirror image) at a time: a VAE at full size is the peak of memory.
    """
    means, stds = [], []
    for path in paths:
        views = [load_image(path, width, height)]
        if flip:
            views.append(views[0].flip(-1))
        mean, std = encode(torch.stack(views))
        means.append(mean.float().cpu())
        stds.append(std.float().cpu())
    return LatentCache(torch.stack(means), torch.stack(stds))


class TrainingSet:
    """Pictures, captions and template lines; ``draw`` makes the batches of a step."""

    def __init__(
        self,
        cache: LatentCache,
        captions: Sequence[str],
        lines: Sequence[str],
        trigger: str,
        settings: TrainSettings,
        timesteps: int = 1000,
    ) -> None:
        self.cache = cache
        self.captions = captions
        self.lines = lines
        self.trigger = trigger
        self.settings = settings
        self.timesteps = timesteps

    def rows(self, step: int) -> list[int]:
        """The pictures of a step: every epoch is a permutation, a batch may straddle two."""
        count = len(self.captions)
        per_step = self.settings.batch_size * self.settings.accumulation
        rows = []
        for place in range((step - 1) * per_step, step * per_step):
            epoch, position = divmod(place, count)
            order = torch.randperm(count, generator=generator_at(self.settings.seed, _ORDER, epoch))
            rows.append(int(order[position]))
        return rows

    def draw(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step ``step`` (from 1).

        Everything is drawn for the whole step, then cut: accumulation sees the samples, noise and
        timesteps that one large batch would.
        """
        settings, rows = self.settings, self.rows(step)
        generator = generator_at(settings.seed, step)
        prompts = [self._prompt(self.captions[row], generator) for row in rows]
        views = torch.randint(self.cache.mean.shape[1], (len(rows),), generator=generator)
        latents = self.cache.mean[rows, views]
        if settings.latents == "sampled":
            latents = latents + self.cache.std[rows, views] * torch.randn(latents.shape, generator=generator)
        noise, input_noise = draw_noise(latents.shape, generator, settings)
        timesteps = draw_timesteps(len(rows), generator, settings, self.timesteps)
        cuts = [slice(i, i + settings.batch_size) for i in range(0, len(rows), settings.batch_size)]
        return [
            Batch(prompts[cut], latents[cut], noise[cut], timesteps[cut], input_noise[cut]) for cut in cuts
        ]

    def _prompt(self, caption: str, generator: torch.Generator) -> str:
        line = self.lines[int(torch.randint(len(self.lines), (1,), generator=generator))]
        if self.settings.drop_tags:
            caption = drop_tags(caption, self.settings.drop_tags, generator)
        if self.settings.shuffle_tags:
            caption = shuffle_tags(caption, generator)
        return fill(line, name=self.trigger, filewords=caption)
