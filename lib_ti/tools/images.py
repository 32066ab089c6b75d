"""The workshop of pictures: folders of them made ready to be learned from. Originals are never changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lib_ti.core.errors import BadInput, Interrupted
from lib_ti.core.files import new_folder
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.data.beside import captions_told, unread_told
from lib_ti.data.buckets import bucket_table
from lib_ti.data.duplicates import Print, find_pairs, print_of
from lib_ti.data.images import open_image, remarks_told
from lib_ti.data.looking import Look, damaged, draw_look, look_at
from lib_ti.data.making import Making, survey, write_picture
from lib_ti.data.shrinking import parse_areas
from lib_ti.data.tags import count_tags
from lib_ti.tools.image_tools import LookSettings, MakeSettings
from lib_ti.tools.tool import Answer, Context


def make(settings: MakeSettings, context: Context) -> Answer:
    """All of it or nothing: it becomes a folder of that name when the last picture is written."""
    areas = parse_areas(settings.sizes) if settings.sizes else ()
    making = Making(_checked_split(settings.split), settings.flip, areas, settings.alpha_masks)
    target = Path(settings.to)
    with new_folder(target) as folder:
        found = survey(Path(settings.source), settings.caption_extension, context.stopped, context.progress)
        left_out = dict(found.damaged)
        for pair in found.pairs:
            if settings.leave_out == "alike" or (pair.exact and settings.leave_out == "exact"):
                left_out[found.pictures[pair.other].path.name] = found.told(pair)
        taken: set[str] = set()
        written: list[Path] = []
        for known in found.pictures:
            if context.stopped():
                raise Interrupted("Stopped; nothing was written.")
            if known.path.name not in left_out:
                try:
                    written += write_picture(known, making, folder, taken)
                except BadInput as error:
                    left_out[known.path.name] = str(error)
        if not written:
            raise BadInput(f"no picture of {settings.source} is left: {next(iter(left_out.values()))}")
    told = {
        "skipped": list(left_out.values()),
        "duplicates": [found.told(pair) for pair in found.pairs],
    }
    sentence = (
        f"Made {target}: {len(written)} pictures with captions of {len(found.pictures)} that could be read"
        f"{_left_out(left_out)}. To train on it give that folder, or on the page its name, {target.name}, as "
        "the picture folder."
    )
    notes = remarks_told((known.path.name, known.remarks) for known in found.pictures)
    notes += _told_of([known.path for known in found.pictures], settings.caption_extension)
    return Answer(sentence, told, tuple(target / path.name for path in written), notes=tuple(notes))


def _told_of(pictures: Sequence[Path], extension: str) -> list[str]:
    folders = dict.fromkeys(path.parent for path in pictures)
    return [*unread_told(folders), *captions_told(pictures, extension)]


def _checked_split(split: float) -> float:
    if 0 < split < 1:
        raise BadInput(f"split: got {split:g}, expected 0, or at least 1: no picture is shorter than square.")
    return split


def _left_out(names: dict[str, str]) -> str:
    return f"; {len(names)} left out" if names else ""


def look(settings: LookSettings, context: Context) -> Answer:
    asked = PictureSettings(
        images=settings.images,
        width=settings.width,
        height=settings.height,
        buckets=settings.buckets,
        bucket_enlarge=settings.bucket_enlarge,
        caption_extension=settings.caption_extension,
    )
    looks = look_at(asked, native=settings.width)
    shown = range(settings.first - 1, min(len(looks), settings.first - 1 + settings.count))
    drawn: dict[int, Image.Image] = {}
    prints: dict[int, Print] = {}
    stopped = False
    for place in range(len(looks)) if settings.duplicates else shown:
        if stopped := context.stopped():
            break
        try:
            image = open_image(looks[place].path)
        except BadInput:
            looks[place] = damaged(looks[place])
            continue
        if settings.duplicates:
            prints[place] = print_of(image)
        if place in shown:
            drawn[place] = draw_look(image, looks[place].box, settings.side)
        context.progress(place + 1, len(looks))
    warnings = _warnings(looks, prints)
    rows = [_row(looks[place], warnings[place]) for place in shown]
    whole = [one for one in looks if not one.damage]
    told: dict[str, Any] = {
        "pictures": rows,
        "count": len(looks),
        "warnings": [
            f"{one.path.name}: {'; '.join(said)}" for one, said in zip(looks, warnings, strict=True) if said
        ],
        "buckets": bucket_table([one.size for one in whole], [one.target for one in whole]),
        "tags": count_tags([one.caption for one in looks]),
    }
    pictures = tuple((drawn[place], _line(rows[place - shown.start])) for place in drawn)
    sentence = f"{len(looks)} pictures, {len(told['warnings'])} of them with a warning."
    notes = remarks_told((one.path.name, one.remarks) for one in looks)
    notes += _told_of([one.path for one in looks], settings.caption_extension)
    return Answer(sentence, told, pictures=pictures, stopped=stopped, notes=tuple(notes))


def _warnings(looks: Sequence[Look], prints: dict[int, Print]) -> list[list[str]]:
    """Of every picture, with those of which it is a duplicate."""
    places, warnings = list(prints), [one.warnings for one in looks]
    for pair in find_pairs(list(prints.values())):
        kept = looks[places[pair.kept]].path.name
        warnings[places[pair.other]].append(
            f"{'has the same pixels as' if pair.exact else 'looks like'} {kept}"
        )
    return warnings


def _row(one: Look, warnings: Sequence[str]) -> dict[str, Any]:
    sizes = {"size": _size(one.size), "bucket": _size(one.target), "lost": f"{one.lost:.1%}"}
    return {"file": one.path.name, **sizes, "caption": one.caption, "warnings": list(warnings)}


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}" if all(size) else "unknown"


def _line(row: dict[str, Any]) -> str:
    """Below a picture that is shown."""
    told = f"{row['file']}: {row['size']}, trained at {row['bucket']}, {row['lost']} cut off"
    return " | ".join([told, *row["warnings"], row["caption"]])
