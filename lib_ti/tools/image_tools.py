"""What is done with data sets, their pictures and captions, and what each of it is told."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.later import Later
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.core.settings import option, with_default
from lib_ti.tools.tool import Tool

# What carries it out.
_IMAGES = "lib_ti.tools.images"
_DESCRIBING = "lib_ti.tools.describing"
_CAPTIONS = "lib_ti.tools.captions"
_CHOOSING = "lib_ti.tools.choosing"
_RESIZING = "lib_ti.tools.resizing"

_EXISTING = ("keep", "replace", "write before", "write after")


@dataclass(frozen=True)
class MakeSettings:
    source: str = option(
        "",
        "folder with pictures; nothing in it is changed",
        group="file",
        file="pictures",
        needed=True,
        label="Picture folder",
    )
    to: str = option(
        "", "name of the new data set", group="file", file="new-dataset", needed=True, label="New data set"
    )
    leave_out: str = option(
        "exact",
        "duplicates that are left out: those of the same pixels, those that look alike too, or none",
        group="picture",
        choices=("exact", "alike", "none"),
    )
    flip: bool = option(False, "add a mirrored copy of each picture", group="picture")
    split: float = option(
        0.0,
        "cut pictures longer than so many times their short side into squares that overlap; 0: none",
        group="picture",
        low=0,
        high=20,
    )
    sizes: str = option(
        "", "add smaller copies that have as many pixels, such as 512x512,256x256", group="picture"
    )
    alpha_masks: bool = option(
        False,
        "write the transparency of a picture as a mask beside it, which weighs the loss",
        group="picture",
    )
    caption_extension: str = with_default(PictureSettings, "caption_extension", ".txt")


@dataclass(frozen=True)
class LookSettings:
    images: str = option(
        "",
        "folder with pictures, or the name of a data set",
        group="file",
        file="pictures",
        needed=True,
        label="Pictures",
    )
    width: int = option(
        512, "width they will be trained at", group="picture", low=32, high=4096, unit="pixels"
    )
    height: int = option(
        512, "height they will be trained at", group="picture", low=32, high=4096, unit="pixels"
    )
    buckets: bool = with_default(PictureSettings, "buckets", True)
    bucket_enlarge: bool = with_default(PictureSettings, "bucket_enlarge", True)
    caption_extension: str = with_default(PictureSettings, "caption_extension", ".txt")
    duplicates: bool = option(True, "look for pictures that are there twice", group="picture")
    first: int = option(1, "the first picture to show", group="shown", low=1)
    count: int = option(60, "so many are shown", group="shown", low=0, high=1000)
    side: int = option(
        320, "longest side of a picture that is shown", group="shown", low=32, high=2048, unit="pixels"
    )


@dataclass(frozen=True)
class CaptionSettings:
    images: str = option(
        "", "the data set to write captions for", group="file", file="dataset", needed=True, label="Data set"
    )
    by: str = option(
        "deepbooru",
        "who looks at the pictures: deepbooru knows tags of drawings, blip makes a sentence",
        group="captions",
        choices=("deepbooru", "blip", "both"),
    )
    threshold: float = option(
        0.75, "how sure deepbooru must be of a tag", group="captions", low=0, high=1, label="score threshold"
    )
    by_score: bool = option(True, "the surest tags first, not by the alphabet", group="captions")
    spaces: bool = option(True, "spaces in tags, not underscores", group="captions")
    escape: bool = option(True, "write ( as \\(, so that it is no emphasis in a prompt", group="captions")
    existing: str = option(
        "keep",
        "what becomes of captions that say more than the file's name",
        group="captions",
        choices=_EXISTING,
    )
    named: str = option(
        "",
        "in the place of text files: a new data set whose pictures have their captions as names",
        group="file",
        file="new-dataset",
        label="New data set",
    )
    caption_extension: str = with_default(PictureSettings, "caption_extension", ".txt")


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
    sort: str = option(
        "no", "sort the tags of each caption", group="captions", choices=("no", "by name", "by frequency")
    )
    keep_tags: int = option(
        0, "so many tags at the front stay in front when sorting", group="captions", low=0, high=75
    )
    caption_separator: str = with_default(PictureSettings, "caption_separator", ",")
    caption_extension: str = with_default(PictureSettings, "caption_extension", ".txt")
    only_tell: bool = option(False, "change nothing, say what would become of the captions", group="captions")


@dataclass(frozen=True)
class WriteSettings:
    images: str = option("", "the data set", group="file", file="dataset", needed=True, label="Data set")
    picture: str = option("", "the picture's file in it", group="file", needed=True)
    caption: str = option("", "its new caption", group="captions")
    caption_extension: str = with_default(PictureSettings, "caption_extension", ".txt")


@dataclass(frozen=True)
class ChooseSettings:
    images: str = with_default(LookSettings, "images", "")
    best: int = option(10, "so many pictures are chosen", group="picture", low=1, high=100_000)
    to: str = option(
        "",
        "name of a new data set for them; empty: only tell which they are",
        group="file",
        file="new-dataset",
        label="New data set",
    )
    width: int = with_default(PictureSettings, "width", 0)
    height: int = with_default(PictureSettings, "height", 0)
    caption_extension: str = with_default(PictureSettings, "caption_extension", ".txt")


@dataclass(frozen=True)
class ResizeSettings:
    source: str = option("", "folder with pictures", group="file", file="pictures", needed=True)
    target: str = option("", "folder to write into", group="file", file="new-dataset", needed=True)
    sizes: str = option(
        "512x512,384x384,256x256,128x128",
        "how many pixels a copy has at most, as WIDTHxHEIGHT of a picture that has as many; its proportions "
        "are the picture's own, and nothing is enlarged",
        group="picture",
    )
    divisible_by: int = option(
        1, "cut the middle so that this divides both sides", group="picture", low=1, high=1024, unit="pixels"
    )
    interpolation: str = option(
        "area",
        "how pictures are scaled",
        group="picture",
        choices=("area", "box", "linear", "cubic", "lanczos4", "nearest"),
    )
    png: bool = option(False, "copies as PNG, transparency kept, not as JPEG", group="picture")
    together: bool = option(
        False,
        "copy files of a picture's name, such as its caption, with each of its copies",
        group="picture",
    )
    overwrite: bool = option(False, "replace files of these names", group="file")


TOOLS = (
    Tool(
        "images",
        "make",
        "a data set from any folder of pictures",
        MakeSettings,
        Later(_IMAGES, "make"),
    ),
    Tool(
        "images",
        "look",
        "pictures as training will cut them",
        LookSettings,
        Later(_IMAGES, "look"),
        shows=True,
    ),
    Tool(
        "images",
        "caption",
        "captions by the WebUI's interrogators, deepbooru and BLIP",
        CaptionSettings,
        Later(_DESCRIBING, "caption"),
    ),
    Tool(
        "images",
        "edit-captions",
        "find and replace in captions, add, remove, sort and count tags",
        EditSettings,
        Later(_CAPTIONS, "edit"),
    ),
    Tool(
        "images",
        "write-caption",
        "the caption of one picture",
        WriteSettings,
        Later(_CAPTIONS, "write"),
    ),
    Tool(
        "images",
        "choose",
        "the pictures that the model's VAE gives back best",
        ChooseSettings,
        Later(_CHOOSING, "choose"),
        shows=True,
    ),
    Tool(
        "images",
        "resize",
        "copy a folder, with smaller copies of its pictures: cat+512x512.jpg",
        ResizeSettings,
        Later(_RESIZING, "resize"),
    ),
)
