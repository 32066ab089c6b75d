"""What everything above the methods knows of one: jobs, page, HTTP and command line ask nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lib_ti.core.picture_settings import PRIVATE
from lib_ti.core.settings import as_dict, option
from lib_ti.core.train_settings import TrainSettings

if TYPE_CHECKING:
    import torch

    from lib_ti.data.samples import TrainingSet
    from lib_ti.hosts.base import Embeddings, Host
    from lib_ti.methods.trained import Trained

# What a file is for, as records and programs call it.
Role = Literal["embedding", "negative_embedding", "network", "bundle"]
ROLES: tuple[Role, ...] = ("embedding", "negative_embedding", "network", "bundle")

Writer = Callable[[Path], object]  # writes one file


@dataclass(frozen=True)
class JobSettings(TrainSettings):
    """What every job is told beside how to train."""

    name: str = option(
        "",
        "The new word, or the network's name; the file is called so too. Textual inversion takes several, "
        "separated by commas.",
        group="embedding",
        label="New word",
        basic=True,
    )
    overwrite: bool = option(
        False, "Replace an embedding of the same name.", group="embedding", label="Replace old embedding"
    )
    template: str = option(
        "subject",
        "Template file with a prompt per line, using [name] and [filewords].",
        group="pictures",
        label="Template",
        basic=True,
    )

    @property
    def trigger(self) -> str:
        """What [name] stands for."""
        return self.name

    @property
    def class_words(self) -> str:
        """What kind of thing is taught; "" where that is not said."""
        return ""

    @property
    def start_asks_model(self) -> bool:
        """Whether the start takes the model itself, and not its vocabulary alone."""
        return False

    @property
    def for_others(self) -> dict[str, Any]:
        """What a file that is shared tells of them: nothing of where something lies on the user's disk."""
        told = {key: value for key, value in as_dict(self).items() if key not in PRIVATE}
        template = Path(self.template)
        return {**told, "template": template.stem} if template.is_absolute() else told

    def steps_before(self, pictures: int) -> int:
        """The optimizer steps that finding the start in so many pictures takes, before the first one."""
        return 0


@dataclass(frozen=True)
class Words:
    """The words a job teaches, an embedding for each: one for the prompt, one for the negative prompt, or
    both. "" is none."""

    positive: str = ""
    negative: str = ""
    others: tuple[str, ...] = ()  # beside the only one of those two, for the prompt that it is for

    @property
    def all(self) -> tuple[str, ...]:
        return (*filter(None, (self.positive, self.negative)), *self.others)

    @property
    def for_prompt(self) -> tuple[str, ...]:
        return (self.positive, *self.others) if self.positive else ()

    @property
    def for_negative(self) -> tuple[str, ...]:
        return tuple(word for word in self.all if word not in self.for_prompt)


@dataclass(frozen=True)
class Product:
    """A file that a job makes."""

    name: str  # without its suffix: what a prompt calls it by
    role: Role

    @property
    def is_embedding(self) -> bool:
        """Whether it belongs into the folder of embeddings, and not into that of networks."""
        return self.role in ("embedding", "negative_embedding")


@dataclass(frozen=True)
class Kind:
    """A kind of training. The settings that its functions are given are of the class ``settings``, which
    belongs to no other kind."""

    name: str  # in records, on the command line and over HTTP
    title: str  # on a page
    settings: type[JobSettings]
    # Raises BadInput where the settings contradict each other.
    words: Callable[[Any], Words]
    # The vectors of the words before the first step. Raises BadInput.
    start: Callable[[Host, Any], Embeddings]
    # What the loop trains, its vectors those given; from then on the host knows them by their words.
    make: Callable[[Host, Any, TrainingSet, Embeddings], Trained]
    # What should be said before the start of a job with these template lines and captions, when the host
    # knows the words. Raises BadInput where nothing could be learned.
    preflight: Callable[[Host, Any, Sequence[str], Sequence[str]], list[str]]
    # Those of the loop's parameters that are vectors, which come before all others, by word.
    vectors: Callable[[Mapping[str, torch.Tensor], Any], Embeddings]
    # A better start, from the one given and the pictures; says how far it is, asks whether to stop (None).
    refine: Callable[
        [Host, Any, TrainingSet, Embeddings, Callable[[str], None], Callable[[], bool]], Embeddings | None
    ] = lambda host, settings, samples, start, say, stopped: start
    # What a job makes beside an embedding for each of its words.
    others: Callable[[Any], tuple[Product, ...]] = lambda settings: ()
    # A writer for each product, untrained; None: there is nothing worth having.
    create: Callable[[Host, Any], Sequence[Writer]] | None = None
    # A mean of the plain loss above which a job seldom becomes anything.
    failing_loss: float = 0.3
    # The setting "preset" names one; its values stand in for those that were not given.
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def products(self, settings: Any) -> tuple[Product, ...]:
        """The files that a job makes. Raises BadInput as ``words`` does."""
        words = self.words(settings)
        embeddings = (
            *(Product(word, "embedding") for word in words.for_prompt),
            *(Product(word, "negative_embedding") for word in words.for_negative),
        )
        return (*embeddings, *self.others(settings))
