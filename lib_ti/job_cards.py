"""The cards of a job: of each word that it taught, a picture to share that carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.files import forget_unfinished, reserved
from lib_ti.core.job import Job
from lib_ti.data.images import open_image
from lib_ti.formats.card import Card, write_card
from lib_ti.formats.card_picture import draw_embedding_card
from lib_ti.formats.embedding import Embedding, read_embedding
from lib_ti.hosts.base import Folders
from lib_ti.job_run import Event, Message, Outcome
from lib_ti.methods.kind import JobSettings, Product
from lib_ti.methods.registry import kind_of


def with_cards(
    outcome: Outcome, settings: JobSettings, folders: Folders, report: Callable[[Event], None]
) -> Outcome:
    """Make the cards of a job that is done, and say where they are."""
    if outcome.status == "done":
        for sentence in make_cards(outcome.job, settings, outcome.files, outcome.kept_step, folders):
            report(Message(sentence))
    return outcome


def make_cards(
    job: Job, settings: JobSettings, files: Mapping[Product, Path], step: int, folders: Folders
) -> list[str]:
    """A card for each word, with the preview of ``step`` or the last before it; a pair has one together.
    What is to be said of them: no card is worth the job, so one that cannot be made is told, and no error.

    A word that goes with a network has none: alone it is not what was trained.
    """
    if not settings.card or not all(product.is_embedding for product in files):
        return []
    try:
        found = {product.name: read_embedding(file) for product, file in files.items()}
        return [
            f"a card to share: {_make(job, settings, card, number, step, folders)}"
            for number, card in enumerate(_cards(settings, found))
        ]
    except (OSError, BadInput) as error:
        return [f"the card was not made: {error}"]


def _cards(settings: JobSettings, found: Mapping[str, Embedding]) -> list[Card]:
    words = kind_of(settings).words(settings)
    first = words.positive or words.negative
    partner = found.get(words.negative) if words.positive else None
    return [Card(found[first], partner), *(Card(found[word]) for word in words.others)]


def _make(job: Job, settings: JobSettings, card: Card, number: int, step: int, folders: Folders) -> Path:
    """``number``: of the word; previews show all words, one after the other."""
    previews = [paths for at, paths in job.previews().items() if at <= step]
    drawn = previews[-1][number * settings.preview_count :] if previews else []
    picture = draw_embedding_card(open_image(drawn[0]) if drawn else None, card)
    path = folders.cards / f"{card.embedding.name}.png"
    with reserved([path], job.id):
        write_card(card, picture, path)
        forget_unfinished(path.parent, path.name)
    return path
