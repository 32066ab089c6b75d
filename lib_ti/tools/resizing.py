"""Smaller copies of pictures, as sd-scripts' tool makes them."""

from __future__ import annotations

from pathlib import Path

from lib_ti.core.files import new_files
from lib_ti.data.captions import ENDINGS
from lib_ti.data.images import SUFFIXES, read_head, remarks_told
from lib_ti.data.shrinking import Shrinking, parse_areas, planned, shrink_folder
from lib_ti.tools.image_tools import ResizeSettings
from lib_ti.tools.tool import Answer, Context


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
    written = []
    with new_files(plan, overwrite=settings.overwrite):
        for path in shrink_folder(plan, shrinking, context.stopped):
            written.append(path)
            context.progress(len(written), len(plan))
    shrunk = {made.source for made in map(plan.get, written) if made and made.area and not made.mask}
    notes = remarks_told((path.name, read_head(path).remarks) for path in sorted(shrunk))
    # Whoever names a folder is told of its pictures and captions, and of no other file.
    named = [path for path in written if path.suffix.lower() in (*SUFFIXES, *ENDINGS)]
    if others := len(written) - len(named):
        notes.append(f"{others} of them are neither pictures nor captions.")
    return Answer(
        f"Wrote {len(written)} files to {settings.target}.",
        written=tuple(named),
        stopped=len(written) < len(plan),
        notes=tuple(notes),
    )
