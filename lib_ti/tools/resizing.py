"""Smaller copies of pictures, as sd-scripts' tool makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_ti.core.settings import option
from lib_ti.data.shrinking import INTERPOLATIONS, Shrinking, parse_areas, planned, shrink_folder
from lib_ti.tools.tool import Answer, Context, Tool, refuse_existing


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
        "area", "how pictures are scaled", group="picture", choices=tuple(INTERPOLATIONS)
    )
    png: bool = option(False, "copies as PNG, transparency kept, not as JPEG", group="picture")
    together: bool = option(
        False,
        "copy files of a picture's name, such as its caption, with each of its copies",
        group="picture",
    )
    overwrite: bool = option(False, "replace files of these names", group="file")


def resize(settings: ResizeSettings, context: Context) -> Answer:
    """Copy a folder, with smaller copies of its pictures: cat+512x512.jpg."""
    shrinking = Shrinking(
        parse_areas(settings.sizes),
        settings.divisible_by,
        settings.interpolation,
        settings.png,
        settings.together,
    )
    plan = planned(Path(settings.source), Path(settings.target), shrinking)
    refuse_existing(list(plan), settings.overwrite)
    written = []
    for path in shrink_folder(plan, shrinking, context.stopped):
        written.append(path)
        context.progress(len(written), len(plan))
    return Answer(
        f"Wrote {len(written)} files to {settings.target}.",
        written=tuple(written),
        stopped=len(written) < len(plan),
    )


TOOLS = (
    Tool(
        "images",
        "resize",
        "copy a folder, with smaller copies of its pictures: cat+512x512.jpg",
        ResizeSettings,
        resize,
    ),
)
