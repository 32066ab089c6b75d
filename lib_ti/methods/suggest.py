"""Words of the model's own vocabulary that come near to what pictures show, as the init text of a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lib_ti.data.evaluation import evaluation_batches
from lib_ti.data.samples import Batch, TrainingSet
from lib_ti.hosts.base import Host
from lib_ti.methods.textual_inversion import TextualInversion
from lib_ti.methods.vector_settings import VectorSettings

OFFERED = 10  # words
_TRIED = 50  # words whose loss is really taken
_SAMPLES = 16  # of the fixed batch: pictures, noise and timesteps alike for every word


@dataclass(frozen=True)
class Suggestion:
    """``loss``: of the fixed batch with the word in the new one's place."""

    word: str
    loss: float


def suggest_words(
    host: Host,
    settings: VectorSettings,
    samples: TrainingSet,
    *,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
) -> list[Suggestion]:
    """The words of the lowest loss, the best first, as far as it came when it was stopped.

    The gradient of the loss to the vector in the new word's place tells of every word how much it would
    change the loss: (word - vector) . gradient (HotFlip, arXiv 1712.06751, section 3). That is the first
    order only, and words lie far apart, so the likeliest ones are then tried. Between losses that agree to
    two digits the gradient decides.
    """
    search = _Search(host, settings, samples)
    say(f"suggesting words: the likeliest {_TRIED} of {len(search.words)} are tried on the pictures")
    losses: dict[str, float] = {}
    for word in search.likeliest():
        if stopped():
            break
        losses[word] = search.loss(word)
    best = sorted(losses, key=lambda word: float(f"{losses[word]:.2g}"))[:OFFERED]
    return [Suggestion(word, losses[word]) for word in best]


class _Search:
    """The loss of one fixed batch, as a function of the vector in the new word's place."""

    def __init__(self, host: Host, settings: VectorSettings, samples: TrainingSet) -> None:
        """The vector begins where nothing is said: at the mean of all words."""
        words = host.words()
        self.words = list(words)
        ids = list(words.values())
        self.vectors = {e: host.token_vectors(e)[ids] for e in host.info.text_encoders}
        self.middle = {encoder: rows.mean(0, keepdim=True) for encoder, rows in self.vectors.items()}
        one = replace(settings, vectors=1, evaluate_pictures=_SAMPLES)
        self.method = TextualInversion(host, one, samples, {one.trigger: self.middle})
        self.batches: Sequence[Batch] = evaluation_batches(samples.draw, one, samples.timesteps)
        self.count = sum(map(len, self.batches))

    def likeliest(self) -> list[str]:
        """The words whose loss is the lowest by the gradient in the middle."""
        self._put(self.middle)
        for batch in self.batches:
            (self.method.losses(batch).sum() / self.count).backward()
        change = torch.zeros(len(self.words))
        for encoder, vector in self.method.vectors.items():
            if vector.grad is not None:
                change += ((self.vectors[encoder] - self.middle[encoder]) @ vector.grad[0]).cpu()
        return [self.words[row] for row in change.argsort()[:_TRIED].tolist()]

    def loss(self, word: str) -> float:
        row = self.words.index(word)
        return self.loss_at({encoder: rows[row : row + 1] for encoder, rows in self.vectors.items()})

    @torch.no_grad()
    def loss_at(self, vectors: Mapping[str, torch.Tensor]) -> float:
        self._put(vectors)
        return sum(float(self.method.losses(batch).sum()) for batch in self.batches) / self.count

    @torch.no_grad()
    def _put(self, vectors: Mapping[str, torch.Tensor]) -> None:
        for encoder, vector in self.method.vectors.items():
            vector.copy_(vectors[encoder])
