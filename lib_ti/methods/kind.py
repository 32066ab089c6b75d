"""What everything above the methods knows of one: jobs, page, HTTP and command line ask nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lib_ti.core.loop import Method
from lib_ti.data.samples import TrainingSet
from lib_ti.formats.embedding import Embedding
from lib_ti.hosts.base import Embeddings, Host


@dataclass(frozen=True)
class Words:
    """The words a job teaches, a file for each: one for the prompt, one for the negative prompt, or both.
    "" is none."""

    positive: str
    negative: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.positive, self.negative)))


@dataclass(frozen=True)
class Kind:
    """A kind of training. The settings that its functions are given are of the class ``settings``, which
    belongs to no other kind."""

    name: str  # in records, on the command line and over HTTP
    title: str  # on a page
    settings: type[Any]
    # Raises BadInput where the settings contradict each other.
    words: Callable[[Any], Words]
    # The vectors before the first step, by word. Raises BadInput.
    start: Callable[[Host, Any], Embeddings]
    # What the loop trains, from the vectors given; from then on the host knows them by their words.
    make: Callable[[Host, Any, TrainingSet, Embeddings], Method]
    # What should be said before the start of a job with these template lines and captions, when the host
    # knows the words. Raises BadInput where nothing could be learned.
    preflight: Callable[[Host, Any, Sequence[str], Sequence[str]], list[str]]
    # The loop's parameters as vectors, by word.
    vectors: Callable[[Mapping[str, torch.Tensor], Any], Embeddings]
    # Vectors after so many steps as files hold them, in the order of the words, for the job of this id.
    export: Callable[[Embeddings, Host, Any, int, str], list[Embedding]]
    # The setting "preset" names one; its values stand in for those that were not given.
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
