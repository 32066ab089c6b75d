"""A tool: what a person does with files beside training them.

Each is a settings class and one function, which page, HTTP and command line call alike. The function finds
paths in its settings: the door has looked them up, so that no name from a page leaves its folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_ti.core.errors import BadInput
from lib_ti.core.names import files_inside, find_named, folders_inside, local_path, new_path
from lib_ti.core.settings import options_of
from lib_ti.formats.suffixes import CHECKPOINTS, EMBEDDINGS, NETWORKS

if TYPE_CHECKING:
    from PIL import Image

    from lib_ti.hosts.base import Folders, Host

CARDS = frozenset({".png"})
DATA_URL = "data:image/png;base64,"  # before a card that is given itself, and not by its name


@dataclass(frozen=True)
class Context:
    """What a tool may ask while it works."""

    stopped: Callable[[], bool]
    progress: Callable[[int, int], None]  # how many are done, of how many
    turn: Callable[[], AbstractContextManager[Host]]  # holds the model; raises BadInput where there is none
    look: Callable[[], Host]  # the model for what only reads it, also while others use it; raises BadInput
    folders: Folders  # where names inside a text are looked up, and what has no name of its own goes


@dataclass(frozen=True)
class Answer:
    """What a tool did."""

    sentence: str  # for a person: what was done, where it lies, what to do next
    told: Mapping[str, Any] = field(default_factory=dict)  # as JSON values
    written: tuple[Path, ...] = ()
    pictures: tuple[tuple[Image.Image, str], ...] = ()  # to look at, each with its caption
    stopped: bool = False  # before all was done
    preview: Image.Image | None = None  # what hosts show for an embedding or a network that was written
    notes: tuple[str, ...] = ()  # a sentence each for what was left out, cut, ignored or taken otherwise

    @property
    def whole_sentence(self) -> str:
        """The sentence and the notes, for a door that shows one text."""
        return " ".join([self.sentence, *self.notes])

    def as_json(self) -> dict[str, Any]:
        """Without the pictures."""
        status = "stopped" if self.stopped else "done"
        written = [str(path) for path in self.written]
        told = {"status": status, "sentence": self.sentence, "notes": list(self.notes), **self.told}
        return {**told, "written": written}


@dataclass(frozen=True)
class Tool:
    group: str  # the command, and the part of the page: "embedding", "images", ...
    name: str  # the verb
    help: str  # what it does, in a line
    settings: type
    run: Callable[[Any, Context], Answer]
    shows: bool = False  # its answer has pictures


def each(text: str) -> list[str]:
    """What a setting that may name several names, one to a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def numbers_for(name: str, text: str, count: int) -> list[float]:
    """What the setting ``name`` says of each of ``count`` files, such as ``0.7, -0.3``; none where it says
    nothing. Raises BadInput."""
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise BadInput(f"{name}: got {text[:60]!r}, expected numbers such as 0.7, -0.3.")
    if numbers and len(numbers) != count:
        raise BadInput(f"{name}: got {len(numbers)} for {count} files; expected one for each.")
    return numbers


def in_folders(settings: Any, folders: Folders) -> Any:
    """``settings`` from a page or over HTTP, with the names of files as paths in the folders meant for them.
    Raises BadInput for what is not there, and for names that leave their folder."""
    found = {}
    for name, (_, option, _) in options_of(type(settings)).items():
        given = getattr(settings, name)
        if option.file and given:
            names = each(given) if option.several else [given]
            found[name] = "\n".join(_find(option.file, one, folders) for one in names)
    return replace(settings, **found)


def as_typed(settings: Any, folders: Folders) -> Any:
    """``settings`` from a command line: paths as they are, and a name of what is not here as the file of that
    name in the folder meant for its kind, if there is one."""
    found = {}
    for name, (_, option, _) in options_of(type(settings)).items():
        given = getattr(settings, name)
        if option.file in LISTED and given:
            names = each(given) if option.several else [given]
            found[name] = "\n".join(_typed(option.file, one, folders) for one in names)
    return replace(settings, **found)


def _typed(kind: str, name: str, folders: Folders) -> str:
    path = Path(name)
    if path.name != name or path.exists():
        return name
    there = _LISTINGS[kind](folders)
    try:
        return str(find_named(name, there, kind))
    except BadInput:
        return name


_LISTINGS: Mapping[str, Callable[[Folders], dict[str, Path]]] = {
    "embedding": lambda folders: files_inside(folders.embeddings, EMBEDDINGS),
    "foreign-embedding": lambda folders: files_inside(folders.inbox, EMBEDDINGS),
    "network": lambda folders: files_inside(folders.networks, NETWORKS, linked=True),
    "checkpoint": lambda folders: _merged(
        files_inside(folder, CHECKPOINTS, linked=True) for folder in folders.checkpoints
    ),
    "bundle": lambda folders: _merged(_LISTINGS[kind](folders) for kind in ("network", "embedding")),
    "card": lambda folders: files_inside(folders.cards, CARDS),
    "dataset": lambda folders: folders_inside(folders.datasets),
}
LISTED = frozenset(_LISTINGS)  # kinds of which one is chosen; of the others any name may be given


def _merged(listings: Iterable[dict[str, Path]]) -> dict[str, Path]:
    """Of two with one name the earlier listing's."""
    found: dict[str, Path] = {}
    for listing in listings:
        found = {**listing, **found}
    return dict(sorted(found.items(), key=lambda item: item[0].casefold()))


def list_files(kind: str, folders: Folders) -> list[str] | None:
    """The names of what is there of ``kind``, as ``in_folders`` takes them; None where not ``LISTED``."""
    return list(_LISTINGS[kind](folders)) if kind in LISTED else None


def _find(kind: str, name: str, folders: Folders) -> str:
    if kind == "card" and name.startswith(DATA_URL):
        return name
    if kind == "pictures":
        if (dataset := folders_inside(folders.datasets).get(name)) is not None:
            return str(dataset)
        folders.check_readable(path := local_path(name))
        return str(path)
    if kind in LISTED:
        return str(find_named(name, _LISTINGS[kind](folders), f"{kind.replace('-', ' ')}s"))
    roots = {
        "new-embedding": folders.embeddings,
        "new-network": folders.networks,
        "new-checkpoint": folders.checkpoints[0],
        "new-card": folders.cards,
        "new-dataset": folders.datasets,
    }
    return str(new_path(roots[kind], name))
