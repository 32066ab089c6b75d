"""The workshop of captions: what is written beside the pictures of a data set."""

from __future__ import annotations

from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.files import write_text
from lib_ti.data.beside import captions_told
from lib_ti.data.captions import tags_of
from lib_ti.data.images import find_images
from lib_ti.data.tags import Edit, captions_in, count_tags, edit_captions, sidecar
from lib_ti.tools.image_tools import EditSettings, WriteSettings
from lib_ti.tools.tool import Answer, Context


def edit(settings: EditSettings, context: Context) -> Answer:
    """Captions that are file names so far are written beside their pictures where they change."""
    separator = settings.caption_separator
    remove, prepend, add = (
        tags_of(tags, separator or ",") for tags in (settings.remove, settings.prepend, settings.add)
    )
    asked = Edit(
        find=settings.find,
        replace=settings.replace,
        regex=settings.regex,
        remove=remove,
        prepend=prepend,
        add=add,
        sort=settings.sort,
        keep=settings.keep_tags,
        separator=separator,
    )
    before = captions_in(Path(settings.images), settings.caption_extension)
    notes = captions_told(find_images(Path(settings.images)), settings.caption_extension)
    after = edit_captions(list(before.values()), asked)
    changed = {file: new for (file, old), new in zip(before.items(), after, strict=True) if old != new}
    if not settings.only_tell:
        for file, caption in changed.items():
            write_text(file, caption)
    did = "Would change" if settings.only_tell else "Changed"
    told = {
        "changes": [
            {"file": file.name, "before": before[file], "after": new} for file, new in changed.items()
        ],
        "tags": count_tags(after, separator),
    }
    written = () if settings.only_tell else tuple(changed)
    return Answer(f"{did} {len(changed)} of {len(before)} captions.", told, written, notes=tuple(notes))


def write(settings: WriteSettings, context: Context) -> Answer:
    pictures = {path.name: path for path in find_images(Path(settings.images))}
    if settings.picture not in pictures:
        raise BadInput(f"{settings.picture[:100]!r} is no picture of {settings.images}.")
    file = sidecar(pictures[settings.picture], settings.caption_extension)
    write_text(file, settings.caption.strip())
    return Answer(f"Saved the caption of {settings.picture}.", written=(file,))
