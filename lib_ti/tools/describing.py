"""Captions by the interrogators of the program whose model is borrowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.files import new_folder, write_text
from lib_ti.data.captions import name_for_caption, only_repeats_name, read_text
from lib_ti.data.images import find_images, flatten, open_image, read_head, remarks_told
from lib_ti.data.making import copy_as
from lib_ti.data.tags import sidecar
from lib_ti.hosts.base import Describing
from lib_ti.tools.image_tools import CaptionSettings
from lib_ti.tools.tool import Answer, Context


def caption(settings: CaptionSettings, context: Context) -> Answer:
    """A stop keeps the text files that are written by then, and makes no half data set."""
    extension = settings.caption_extension
    pictures = find_images(Path(settings.images))
    captions = {path: _own_caption(path, extension) for path in pictures}
    asked = [path for path in pictures if settings.existing != "keep" or not captions[path]]
    new: dict[Path, str] = {}
    damaged, remarks = [], []
    with _describer(settings, context) if asked else nullcontext(str) as describe:
        for done, path in enumerate(asked, start=1):
            if context.stopped():
                break
            try:
                words = describe(flatten(open_image(path)))
                remarks.append((path.name, read_head(path).remarks))
            except BadInput as error:
                damaged.append(str(error))
                continue
            new[path] = captions[path] = _joined(captions[path], words, settings.existing)
            if not settings.named:
                write_text(sidecar(path, extension), new[path])
            context.progress(done, len(asked))
    stopped = len(new) + len(damaged) < len(asked)
    written = [sidecar(path, extension) for path in new]
    if settings.named:
        written = [] if stopped else _write_named(captions, Path(settings.named))
    told = {
        "captions": [{"file": path.name, "caption": text} for path, text in new.items()],
        "damaged": damaged,
    }
    kept = len(pictures) - len(asked)
    sentence = f"Looked at {len(new)} of {len(pictures)} pictures; {kept} have captions that were kept."
    if settings.named and written:
        sentence += f" Those named by their captions are in {settings.named}."
    notes = tuple(remarks_told(remarks))
    return Answer(sentence, told, tuple(written), stopped=stopped, notes=notes)


@contextmanager
def _describer(settings: CaptionSettings, context: Context) -> Iterator[Callable[[Any], str]]:
    """Holds the model for as long. Of both interrogators deepbooru speaks first, as in the WebUI."""
    names = ("deepbooru", "blip") if settings.by == "both" else (settings.by,)
    tags = (settings.threshold, settings.by_score, settings.spaces, settings.escape)
    with context.turn() as host, ExitStack() as loaded:
        describers = [loaded.enter_context(host.describer(Describing(name, *tags))) for name in names]
        yield lambda image: ", ".join(filter(None, (describe(image) for describe in describers)))


def _own_caption(picture: Path, extension: str) -> str:
    """What its text file says beyond its name; nothing where there is none."""
    file = sidecar(picture, extension)
    text = read_text(file).strip() if file.is_file() else ""
    return "" if only_repeats_name(text, picture) else text


def _joined(before: str, words: str, existing: str) -> str:
    """``words`` beside the caption that is there, or in its place."""
    order = {"write before": (words, before), "write after": (before, words)}
    return ", ".join(filter(None, order.get(existing, (words,))))


def _write_named(captions: Mapping[Path, str], target: Path) -> list[Path]:
    with new_folder(target) as folder:
        return [
            target / copy_as(name_for_caption(number, text), path, folder).name
            for number, (path, text) in enumerate(captions.items(), start=1)
        ]
