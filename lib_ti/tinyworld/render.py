"""Draw a scene of the tiny world as a 64 x 64 picture."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from lib_ti.tinyworld.world import COLOURS, Scene

SIDE = 64  # pixels
_OVER = 4  # masks are drawn this many times larger, then reduced: smooth edges
_RADIUS = {"small": 15.0, "large": 23.0}  # pixels
_SHIFT = {"small": 11.0, "large": 6.0}  # pixels from the middle
_STROKE = {"small": 3.4, "large": 4.6}  # pixels, of an outlined shape
_CONTOUR = 2.2  # pixels, the black line of the comic style
_PANEL = 3  # pixels, its black frame
_STRIPE = 5.0  # pixels, of a stripe and of a gap
_DIRECTION = {"middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}

Points = tuple[tuple[float, float], ...]


def _circle_points(n: int = 72) -> Points:
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return tuple((0.94 * np.cos(a), 0.94 * np.sin(a)) for a in angles)


def _star_points() -> Points:
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.46)
    return tuple((r * np.cos(a), r * np.sin(a) + 0.06) for r, a in zip(radii, angles, strict=True))


def _heart_points(n: int = 72) -> Points:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return tuple((float(a) / 16.5, float(-b) / 15.5 - 0.1) for a, b in zip(x, y, strict=True))


def _moon_points(n: int = 36) -> Points:
    """A crescent open to the right: the outer arc, then an inner arc of a circle moved to the right."""
    tip = np.deg2rad(52)
    outer = np.linspace(tip, 2 * np.pi - tip, n)
    x_tip, y_tip = np.cos(tip), np.sin(tip)
    centre = 0.62
    radius = np.hypot(x_tip - centre, y_tip)
    half = np.arctan2(y_tip, x_tip - centre)
    inner = np.linspace(2 * np.pi - half, half, n)
    points = [(np.cos(a), np.sin(a)) for a in outer]
    points += [(centre + radius * np.cos(a), radius * np.sin(a)) for a in inner]
    return tuple((float(x) + 0.16, float(y)) for x, y in points)


_SHAPES: dict[str, Points] = {
    "circle": _circle_points(),
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": ((0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)),
    "star": _star_points(),
    "heart": _heart_points(),
    "cross": (
        (-0.36, -1.0), (0.36, -1.0), (0.36, -0.36), (1.0, -0.36), (1.0, 0.36), (0.36, 0.36),
        (0.36, 1.0), (-0.36, 1.0), (-0.36, 0.36), (-1.0, 0.36), (-1.0, -0.36), (-0.36, -0.36),
    ),
    "moon": _moon_points(),
    "arrow": (
        (-1.0, -0.38), (0.05, -0.38), (0.05, -0.95), (1.0, 0.0),
        (0.05, 0.95), (0.05, 0.38), (-1.0, 0.38),
    ),
    "hourglass": ((-0.85, -0.95), (0.85, -0.95), (0.22, 0.0), (0.85, 0.95), (-0.85, 0.95), (-0.22, 0.0)),
    "bolt": ((0.1, -1.05), (-0.75, 0.2), (-0.1, 0.2), (-0.3, 1.05), (0.75, -0.3), (0.1, -0.3), (0.5, -1.05)),
    "crown": ((-1.0, 0.8), (-1.0, -0.7), (-0.5, -0.1), (0.0, -0.85), (0.5, -0.1), (1.0, -0.7), (1.0, 0.8)),
}  # fmt: skip


def _path(scene: Scene, centre: tuple[float, float]) -> list[tuple[float, float]]:
    """The shape's corners in the coordinates of the masks."""
    radius = _RADIUS[scene.size] * _OVER
    return [(radius * x + centre[0] * _OVER, radius * y + centre[1] * _OVER) for x, y in _SHAPES[scene.shape]]


def _area(path: list[tuple[float, float]]) -> Image.Image:
    """What ``path`` encloses (mode L, 0 or 255)."""
    area = Image.new("L", (SIDE * _OVER, SIDE * _OVER), 0)
    ImageDraw.Draw(area).polygon(path, fill=255)
    return area


def _band(path: list[tuple[float, float]], reach: float) -> Image.Image:
    """Everything within ``reach`` pixels of ``path``."""
    band = Image.new("L", (SIDE * _OVER, SIDE * _OVER), 0)
    closed = [*path, *path[:2]]
    ImageDraw.Draw(band).line(closed, fill=255, width=round(2 * reach * _OVER), joint="curve")
    return band


def _ink(scene: Scene, path: list[tuple[float, float]], middle: float) -> Image.Image:
    """Where the shape's colour goes; ``middle``: the row (pixels) the stripes are counted from."""
    area = _area(path)
    if scene.fill == "outlined":
        return ImageChops.multiply(area, _band(path, _STROKE[scene.size]))
    if scene.fill == "striped":
        rows = (np.arange(area.height) / _OVER - middle) // _STRIPE % 2 == 0
        stripes = np.repeat(np.where(rows, 255, 0).astype(np.uint8)[:, None], area.width, axis=1)
        return ImageChops.multiply(area, Image.fromarray(stripes))
    return area


def _coverage(mask: Image.Image) -> np.ndarray:
    """(64, 64, 1) float in 0..1."""
    small = mask.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)[..., None] / 255


@cache
def _light(style: str) -> np.ndarray:
    """What a style multiplies the picture by, (64, 64, 1)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / (SIDE - 1)
    if style == "shaded":
        light = 1.0 - 0.6 * y
    elif style == "vignette":
        light = np.clip(1.5 - 1.9 * np.hypot(x - 0.5, y - 0.5), 0.12, 1.0)
    else:
        light = np.ones_like(x)
    return light[..., None]


def render(scene: Scene) -> Image.Image:
    """``scene`` as an RGB picture of 64 x 64 pixels; the same bytes for the same scene."""
    rng = np.random.default_rng(scene.seed)
    jitter = rng.uniform(-1.5, 1.5, 2)
    shift = _SHIFT[scene.size]
    dx, dy = _DIRECTION[scene.position]
    centre = (SIDE / 2 + dx * shift + jitter[0], SIDE / 2 + dy * shift + jitter[1])
    colour = np.array(COLOURS[scene.colour], np.float32) + rng.uniform(-7, 7, 3).astype(np.float32)
    background = np.array(COLOURS[scene.background], np.float32) + rng.uniform(-7, 7, 3).astype(np.float32)

    path = _path(scene, centre)
    inside = _coverage(_ink(scene, path, centre[1]))
    picture = background * (1 - inside) + colour * inside
    if scene.style == "comic":
        contour = _coverage(ImageChops.subtract(_band(path, _CONTOUR), _area(path)))
        contour[:_PANEL] = contour[-_PANEL:] = contour[:, :_PANEL] = contour[:, -_PANEL:] = 1
        picture = picture * (1 - contour) + 14 * contour
    picture = picture * _light(scene.style)
    return Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
