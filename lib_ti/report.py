"""Pictures that tell how training went: contact sheets and loss curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lib_ti.core.files import write_atomically

_GAP, _LINE = 8, 17  # pixels
_LINES = 6  # below a picture
_INK, _PAPER, _FAINT = (24, 24, 27), (250, 250, 249), (113, 113, 122)


@dataclass(frozen=True)
class Row:
    """A line of a contact sheet."""

    title: str
    note: str
    pictures: Sequence[Image.Image]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        pass
    try:
        return ImageFont.load_default(size)  # Pillow 10.1 and later
    except TypeError:
        return ImageFont.load_default()


def contact_sheet(title: str, rows: Sequence[Row], cell: int = 128) -> Image.Image:
    """Rows of pictures under their titles, each picture shown ``cell`` pixels wide."""
    columns = max(len(row.pictures) for row in rows)
    caption = 46
    width = _GAP + columns * (cell + _GAP)
    height = 52 + len(rows) * (caption + cell + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 12), title, fill=_INK, font=_font(22))
    top = 52
    for row in rows:
        draw.text((_GAP, top + 2), row.title, fill=_INK, font=_font(15))
        draw.text((_GAP, top + 22), row.note, fill=_FAINT, font=_font(12))
        top += caption
        for column, picture in enumerate(row.pictures):
            # Small pictures keep their pixels: nothing is made to look better than it is.
            method = Image.Resampling.NEAREST if picture.width < cell else Image.Resampling.LANCZOS
            sheet.paste(
                picture.convert("RGB").resize((cell, cell), method), (_GAP + column * (cell + _GAP), top)
            )
        top += cell + _GAP
    return sheet


def picture_sheet(pictures: Sequence[tuple[Image.Image, str]], columns: int = 4) -> Image.Image:
    """Pictures in their proportions, each above what is said of it, in rows of ``columns``."""
    cell = max(max(picture.size) for picture, _ in pictures)
    font = _font(13)
    told = [_wrapped(text, font, cell) for _, text in pictures]
    rows = [range(i, min(i + columns, len(pictures))) for i in range(0, len(pictures), columns)]
    heights = [
        max(pictures[i][0].height for i in row) + _LINE * max(len(told[i]) for i in row) + 2 * _GAP
        for row in rows
    ]
    width = _GAP + min(columns, len(pictures)) * (cell + _GAP)
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left, picture = _GAP + column * (cell + _GAP), pictures[i][0]
            sheet.paste(picture.convert("RGB"), (left, top))
            for number, line in enumerate(told[i]):
                place = (left, top + picture.height + 4 + number * _LINE)
                draw.text(place, line, fill=_INK, font=font)
        top += height
    return sheet


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of at most ``width`` pixels; of what has no room in ``_LINES`` of them, dots tell."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        text = text.encode("latin-1", "replace").decode("latin-1")  # Pillow's own has no other letters
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            while font.getlength(word) > width:
                word = word[:-1]
            lines.append(word)
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], f"{lines[_LINES - 1]} ..."]


def save_png(image: Image.Image, path: Path) -> None:
    """``image`` as a PNG, whole or not at all."""
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))


def plot_losses(rows: Sequence[tuple[int, float, float]], path: Path) -> bool:
    """The loss over the steps and its running mean as a PNG; False where matplotlib is missing or
    there is nothing to draw."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not rows:
        return False
    steps, losses = [row[0] for row in rows], [row[1] for row in rows]
    mean, smooth = losses[0], []
    for loss in losses:
        mean += 0.05 * (loss - mean)
        smooth.append(mean)
    figure = Figure(figsize=(7, 3.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(steps, losses, color="#d4d4d8", linewidth=0.8, label="each step")
    axes.plot(steps, smooth, color="#2563eb", linewidth=1.8, label="running mean")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
    return True
