"""The workshop of captions: what is written beside the pictures of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.files import write_text
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.core.settings import option, with_default
from lib_ti.data.captions import tags_of
from lib_ti.data.images import find_images
from lib_ti.data.tags import SORTS, Edit, captions_in, count_tags, edit_captions, sidecar
from lib_ti.tools.tool import Answer, Context, Tool


@dataclass(frozen=True)
class EditSettings:
    images: str = option(
        "", "the data set whose captions are edited", group="file", file="dataset", needed=True
    )
    find: str = option("", "text to find", group="captions")
    replace: str = option("", "what to put in its place", group="captions")
    regex: bool = option(
        False,
        "read the text to find as a regular expression of Python; \\1 in its place is what group 1 found",
        group="captions",
    )
    remove: str = option("", "tags to take out, with commas between them", group="captions")
    prepend: str = option("", "tags to put in front of captions that lack them", group="captions")
    add: str = option("", "tags to put at the end of captions that lack them", group="captions")
    sort: str = option("no", "sort the tags of each caption", group="captions", choices=SORTS)
    keep_tags: int = option(
        0, "so many tags at the front stay in front when sorting", group="captions", low=0, high=75
    )
    caption_separator: str = with_default(PictureSettings, "caption_separator", ",")
    caption_extension: str = with_default(PictureSettings, "caption_extension", ".txt")
    only_tell: bool = option(False, "change nothing, say what would become of the captions", group="captions")


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
    return Answer(f"{did} {len(changed)} of {len(before)} captions.", told, written)


@dataclass(frozen=True)
class WriteSettings:
    images: str = option("", "the data set", group="file", file="dataset", needed=True, label="Data set")
    picture: str = option("", "the picture's file in it", group="file", needed=True)
    caption: str = option("", "its new caption", group="captions")
    caption_extension: str = with_default(PictureSettings, "caption_extension", ".txt")


def write(settings: WriteSettings, context: Context) -> Answer:
    pictures = {path.name: path for path in find_images(Path(settings.images))}
    if settings.picture not in pictures:
        raise BadInput(f"{settings.picture[:100]!r} is no picture of {settings.images}.")
    file = sidecar(pictures[settings.picture], settings.caption_extension)
    write_text(file, settings.caption.strip())
    return Answer(f"Saved the caption of {settings.picture}.", written=(file,))


TOOLS = (
    Tool(
        "images",
        "edit-captions",
        "find and replace in captions, add, remove, sort and count tags",
        EditSettings,
        edit,
    ),
    Tool("images", "write-caption", "the caption of one picture", WriteSettings, write),
)
