"""A stranger's embedding on its way to where prompts find it: looked at first, and written anew.

What lies in a WebUI's embeddings folder is read by the WebUI, and some of them run what a pickle says. So
nothing is copied there: our own reader takes the numbers out, and they are written as safetensors.
"""

from __future__ import annotations

from pathlib import Path

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import new_files
from lib_ti.core.names import files_inside, folded, safe_name, suggest_name
from lib_ti.core.nearest import perhaps
from lib_ti.formats.content import content_of
from lib_ti.formats.embedding import Embedding, read_embeddings, write_safetensors
from lib_ti.formats.embedding_layouts import renamed
from lib_ti.formats.suffixes import EMBEDDINGS
from lib_ti.tools.embedding_tools import ImportSettings
from lib_ti.tools.embeddings import describe
from lib_ti.tools.tool import Answer, Context

_SUFFIX = ".safetensors"


def import_embedding(settings: ImportSettings, context: Context) -> Answer:
    """Raises BadInput for what is no embedding, and for a name that is taken, with one that is free."""
    path = Path(settings.file)
    kind, _ = content_of(path, limits.EMBEDDING_FILE)
    found = read_embeddings(path)
    told = {"file": path.name, "content": kind, "embeddings": [describe(embedding) for embedding in found]}
    folder = Path(settings.to).parent if settings.to else context.folders.embeddings
    taken = _words_in(folder)
    if not settings.to:
        free = {embedding.name: suggest_name(embedding.name, taken) for embedding in found}
        words = ", ".join(f"{name} as {word}" if name != word else name for name, word in free.items())
        return Answer(
            f"{path.name} is a {kind} file of {len(found)} embedding{'s' * (len(found) > 1)}; nothing was "
            f"written. To import it, give it a word: {words}.",
            told,
        )
    embedding, target = _chosen(found, settings.word, path), _target(Path(settings.to), taken)
    with new_files([target]):
        _target(target, _words_in(folder))  # others may have been faster
        write_safetensors(renamed(embedding, target.stem), target)
    return Answer(f"Wrote {target}: the numbers alone, as safetensors.", told, written=(target,))


def _words_in(folder: Path) -> list[str]:
    return [Path(name).stem for name in files_inside(folder, EMBEDDINGS)]


def _chosen(found: list[Embedding], word: str, path: Path) -> Embedding:
    names = [embedding.name for embedding in found]
    if not word and len(found) == 1:
        return found[0]
    if names.count(word) != 1:
        raise BadInput(
            f"word: got {word!r}, expected one of those in {path.name}: {', '.join(names)}"
            f"{perhaps(word, names)}."
        )
    return found[names.index(word)]


def _target(to: Path, taken: list[str]) -> Path:
    if to.suffix.lower() in EMBEDDINGS - {_SUFFIX}:
        raise BadInput(f"to: got {to.name}, expected a name without an ending, or one in {_SUFFIX}.")
    word = safe_name(to.stem if to.suffix.lower() == _SUFFIX else to.name)
    if folded(word) in map(folded, taken):
        raise BadInput(
            f"an embedding in {to.parent} is called {word!r} already; {suggest_name(word, taken)!r} is free."
        )
    return to.with_name(word + _SUFFIX)
