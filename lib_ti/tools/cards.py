"""Cards: making the picture that carries a word, looking at one, and taking the word out of it."""

from __future__ import annotations

import base64
import io
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import new_files
from lib_ti.core.names import MAX_NAME, files_inside, folded, safe_name, suggest_name
from lib_ti.data.images import open_image, read_head, remarks_told
from lib_ti.formats.card import Card, read_card, write_card
from lib_ti.formats.card_picture import FAMILIES, draw_embedding_card
from lib_ti.formats.embedding import read_embedding, write_safetensors
from lib_ti.formats.embedding_layouts import renamed
from lib_ti.formats.suffixes import EMBEDDINGS
from lib_ti.formats.together import write_together
from lib_ti.methods.dreamartist_settings import NEGATIVE_SUFFIX
from lib_ti.tools.card_tools import ImportSettings, LookSettings, MakeSettings
from lib_ti.tools.embedding_files import calling, partner_of
from lib_ti.tools.tool import DATA_URL, Answer, Context


def make(settings: MakeSettings, context: Context) -> Answer:
    file = Path(settings.embedding)
    partner = Path(settings.negative) if settings.negative else partner_of(file)
    card = Card(read_embedding(file), read_embedding(partner) if partner else None)
    target = Path(settings.to) if settings.to else context.folders.cards / card.embedding.name
    target = target if target.suffix.lower() == ".png" else target.with_name(f"{target.name}.png")
    with new_files([target], overwrite=settings.overwrite):
        preview = Path(settings.preview) if settings.preview else _preview_of(file)
        picture = draw_embedding_card(open_image(preview) if preview else None, card)
        write_card(card, picture, target)
    shown = read_card(target.read_bytes(), target.name)
    told = f"The card lies in {target}; who drops it into TI Studio owns {_words(shown)}."
    notes = remarks_told([(preview.name, read_head(preview).remarks)]) if preview else []
    drawn = ((open_image(target), target.stem),)
    return Answer(told, describe(shown), (target,), drawn, notes=tuple(notes))


def _preview_of(file: Path) -> Path | None:
    """The picture that WebUIs have put beside an embedding."""
    candidates = (file.with_name(f"{file.stem}.preview{suffix}") for suffix in (".png", ".jpg", ".webp"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def look(settings: LookSettings, context: Context) -> Answer:
    """Nothing is written."""
    card = read_card(*_content(settings.card))
    told = describe(card)
    told["suggested_name"] = _free_name(card.embedding.name, context.folders.embeddings)
    return Answer(f"{_told(card)}. Import it as {told['suggested_name']} to own it.", told)


def take_in(settings: ImportSettings, context: Context) -> Answer:
    """A pair becomes NAME and NAME-neg. Nothing that is there is replaced."""
    content, file_name = _content(settings.card)
    card = read_card(content, file_name)
    folder = context.folders.embeddings
    found = [card.embedding, *filter(None, [card.negative])]
    name = settings.name or card.embedding.name
    try:
        names = [safe_name(each) for each in (name, name + NEGATIVE_SUFFIX)[: len(found)]]
    except BadInput as error:
        free = _free_name(name, folder)
        told = f"{name[:MAX_NAME]!r} cannot be a word; choose another name, such as {free!r}."
        raise BadInput(told) from error
    _refuse_taken(names, folder)
    new = {embedding.name: called for embedding, called in zip(found, names, strict=True)}
    writers = {
        folder / f"{called}.safetensors": partial(write_safetensors, calling(renamed(embedding, called), new))
        for embedding, called in zip(found, names, strict=True)
    }
    with new_files(writers):
        _refuse_taken(names, folder)  # others may have been faster
        write_together(writers)
    words = " and ".join(names)
    told = f"You own {words} now. The card: {_told(card)}."
    preview = Image.open(io.BytesIO(content), formats=("PNG",))
    return Answer(told, {"words": names, **describe(card)}, tuple(writers), preview=preview)


def _refuse_taken(names: list[str], folder: Path) -> None:
    if taken := [name for name in names if folded(name) in _taken(folder)]:
        free = _free_name(names[0], folder)
        raise BadInput(f"there is a word {taken[0]!r} already; choose another name, such as {free!r}.")


def _free_name(name: str, folder: Path) -> str:
    """``name``, or what comes near to it, that no word in ``folder`` has, nor a half of a pair."""
    taken = _taken(folder)
    return suggest_name(name, [*taken, *(word.removesuffix(NEGATIVE_SUFFIX) for word in taken)])


def _taken(folder: Path) -> set[str]:
    """The words that are there, folded."""
    return {folded(path.stem) for path in files_inside(folder, EMBEDDINGS).values()}


def _content(card: str) -> tuple[bytes, str]:
    """The file's bytes and its name: by its path, or the file itself, as a page and programs send it."""
    if not card.startswith(DATA_URL):
        path = Path(card)
        try:
            with path.open("rb") as file:
                return file.read(limits.CARD_FILE + 1), path.name  # one more than is allowed, to be seen
        except OSError as error:
            raise BadInput(f"{card} cannot be read: {error.strerror}.") from error
    try:
        return base64.b64decode(card.removeprefix(DATA_URL), validate=True), "the picture"
    except ValueError as error:
        raise BadInput(f"the card is not in base64: {error}.") from error


def describe(card: Card) -> dict[str, Any]:
    """What a card carries, as JSON values."""
    embedding, metadata = card.embedding, card.embedding.metadata
    digest = metadata.get("base_model_sha256", "")[:10] or metadata.get("sd_checkpoint", "")
    told = {
        "word": embedding.name,
        "made_for": FAMILIES[embedding.family],
        "vectors": embedding.count,
        "trained_on": " ".join(filter(None, [metadata.get("base_model"), digest and f"[{digest}]"])),
        "steps": embedding.step,
        "made_on": metadata.get("modelspec.date", "")[:10],
        "prompt": "the negative one" if embedding.is_negative else "",
        "precision": "exact" if card.found_in == "chunk" else "four digits: its text was stripped",
    }
    if card.negative is not None:
        told["partner"] = f"{card.negative.name}, {card.negative.count} vectors for the negative prompt"
    return {key: value for key, value in told.items() if value not in ("", None)}


def _words(card: Card) -> str:
    return " and ".join(e.name for e in (card.embedding, card.negative) if e is not None)


def _told(card: Card) -> str:
    """What it is, in a sentence without its end."""
    told = describe(card)
    trained = f", trained {told['steps']} steps" if told.get("steps") else ""
    on = f" on {told['trained_on']}" if "trained_on" in told else ""
    with_ = f", with {told['partner']}" if "partner" in told else ""
    return f"{told['word']}, {told['vectors']} vectors for {told['made_for']}{trained}{on}{with_}"
