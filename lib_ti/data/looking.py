"""Pictures as training will see them: where each is cut, at what size, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw

from lib_ti.core.errors import BadInput
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.data.buckets import Size, enlargement, lost_share
from lib_ti.data.captions import check_extension
from lib_ti.data.dataset import Picture, read_pictures, subsets_of
from lib_ti.data.images import cut_box, flatten
from lib_ti.data.known_files import Facts, facts_of
from lib_ti.data.views import frame

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

_GRAIN = 8  # pixels a latent, of every family
_MUCH = 0.25  # of a picture cut off: worth a warning
_FRAME, _DARK = (255, 59, 48), 90  # of 255 stay of what is cut off


@dataclass(frozen=True)
class Look:
    """A picture and what training makes of it. ``box``: what is left of it after the cut."""

    path: Path
    caption: str
    size: Size = (0, 0)
    target: Size = (0, 0)
    box: Box = (0, 0, 0, 0)
    damage: str = ""  # why it cannot be read
    remarks: Sequence[str] = ()  # what of the file is taken otherwise than it says

    @property
    def lost(self) -> float:
        """The share of its pixels that is cut off."""
        return 0.0 if self.damage else lost_share(self.size, self.target)

    @property
    def warnings(self) -> list[str]:
        """What a person should know of it, in a few words each."""
        if self.damage:
            return [self.damage]
        said = [] if self.caption else ["no caption"]
        factor = enlargement(self.size, self.target)
        if factor > 1:
            said.append(f"small: enlarged {factor:.2g} times")
        if self.lost >= _MUCH:
            said.append(f"{self.lost:.0%} of it is cut off")
        return said


def look_at(settings: PictureSettings, native: int) -> list[Look]:
    """Every picture that the settings name, treated as a job with them would treat it, in the middle.

    ``native``: the model's side. Of a file only its head is read: a damaged end is not seen here.
    Raises BadInput.
    """
    check_extension(settings.caption_extension)
    looks = {}
    whole: dict[Picture, Facts] = {}
    for picture in read_pictures(subsets_of(settings), settings):
        looks[picture.path] = Look(picture.path, picture.caption)
        try:
            whole[picture] = facts_of(picture.path)
        except BadInput:
            looks[picture.path] = damaged(looks[picture.path])
    framed = frame([*whole], [*whole.values()], native, _GRAIN, seed=0)
    for known, seen in zip(whole.values(), framed, strict=True):
        box = cut_box(known.size, seen.size, seen.views[0].place)
        looks[seen.path] = replace(
            looks[seen.path], size=known.size, target=seen.size, box=box, remarks=known.remarks
        )
    return list(looks.values())


def damaged(look: Look) -> Look:
    """Of a picture that turned out to be no whole image."""
    return Look(look.path, look.caption, damage="cannot be read: cut off or damaged")


def draw_look(image: Image.Image, box: Box, side: int) -> Image.Image:
    """A thumbnail of ``image``, no side longer than ``side``: what is cut off is dark, the rest framed."""
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    thumbnail = flatten(image).resize(size, Image.Resampling.LANCZOS)
    left, top, right, bottom = (round(edge * scale) for edge in box)
    inner = (left, top, max(left, min(right, size[0]) - 1), max(top, min(bottom, size[1]) - 1))
    lit = Image.new("L", size, _DARK)
    ImageDraw.Draw(lit).rectangle(inner, fill=255)
    drawn = Image.composite(thumbnail, Image.new("RGB", size), lit)
    ImageDraw.Draw(drawn).rectangle(inner, outline=_FRAME, width=max(1, max(size) // 120))
    return drawn
