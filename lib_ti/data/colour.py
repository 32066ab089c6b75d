"""Colours of a picture that are not sRGB's, brought there: what a program for pictures would show.

Of PNG an ICC profile goes before sRGB's own chunk, and that before gAMA and cHRM, as in the PNG specification
(third edition, 4.3). Brought over by colorimetry at the white of D50 (ICC's), what sRGB cannot show cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from lib_ti.data.icc import Curve, NotRead, Profile, profile_name, read_profile

_KEYS = ("icc_profile", "srgb", "gamma", "chromaticity")  # Pillow's, of what a file says of its colours
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_PLACES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x, y of white, red, green and blue
_SRGB_CURVE = Curve(g=2.4, a=1 / 1.055, b=0.055 / 1.055, c=1 / 12.92, d=0.04045)
# gAMA cannot say sRGB's curve. Whoever means it writes 1 / 2.2, as the PNG specification tells them to.
_SRGB_GAMMA, _SAME_GAMMA, _SAME_PLACE = 1 / 2.2, 0.01, 0.002
_GAMMAS = (0.1, 10.0)  # what is beyond was no exponent
_UNSEEN = 1  # of 255: what a profile of sRGB's own differs by, from rounding
_GREYS = ("L", "LA", "I", "I;16", "I;16B")
_AT_ONCE = 1 << 20  # pixels


def _to_d50(places: Sequence[float]) -> np.ndarray:
    """(3, 3), from the light of three colorants to XYZ at D50; ``places``: as those of sRGB."""
    x, y = np.array(places, dtype=np.float64).reshape(4, 2).T
    white, *colours = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    colorants = np.stack(colours, axis=1) * np.linalg.solve(np.stack(colours, axis=1), white)
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    return np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ colorants


_FROM_D50 = np.linalg.inv(_to_d50(_SRGB_PLACES))
# Light in 65,535 steps -> sRGB's number; a step is a twentieth of a number where that is finest.
_LIGHT = np.linspace(0, 1, 65536)
_NUMBERS = np.where(_LIGHT <= 0.0031308, 12.92 * _LIGHT, 1.055 * _LIGHT ** (1 / 2.4) - 0.055)
_TO_SRGB = (_NUMBERS * 255 + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class Colours:
    """What the numbers of a picture mean, where they are not sRGB's."""

    profile: Profile

    @cached_property
    def _to_linear_srgb(self) -> np.ndarray:
        return (_FROM_D50 @ self.profile.colorants).astype(np.float32)

    @cached_property
    def _light(self) -> list[np.ndarray]:
        """Of each of 0..255, by channel."""
        return [curve(np.arange(256) / 255).astype(np.float32) for curve in self.profile.curves]

    @cached_property
    def are_srgb(self) -> bool:
        """Whether no number would change by more than rounding does. Raises NotRead."""
        grey = np.arange(256, dtype=np.uint8)
        if self.profile.colorants is None:
            after = _numbers(self._light[0])
            return bool(np.abs(after.astype(int) - grey).max() <= _UNSEEN)
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
        tried = np.concatenate([grid, np.stack([grey] * 3, axis=1)])
        return bool(np.abs(self._converted(tried).astype(int) - tried).max() <= _UNSEEN)

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """``image`` in sRGB: grey where its colours are grey's, else RGB; transparency stays."""
        told = {key: value for key, value in image.info.items() if key not in (*_KEYS, "transparency")}
        transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA")
        if self.profile.colorants is None:
            converted = self._grey(image, transparent)
        else:
            pixels = np.array(image.convert("RGBA" if transparent else "RGB"))
            rows = max(1, _AT_ONCE // image.width)
            for top in range(0, image.height, rows):
                pixels[top : top + rows, :, :3] = self._converted(pixels[top : top + rows, :, :3])
            converted = Image.fromarray(pixels)
        converted.info = told
        return converted

    def _converted(self, numbers: np.ndarray) -> np.ndarray:
        """``numbers``: (..., 3), uint8; so are the answer's."""
        light = np.stack([self._light[channel][numbers[..., channel]] for channel in range(3)], axis=-1)
        return _numbers(light @ self._to_linear_srgb.T)

    def _grey(self, image: Image.Image, transparent: bool) -> Image.Image:
        if image.mode.startswith("I"):
            (curve,) = self.profile.curves
            return Image.fromarray(_numbers(curve(_LIGHT))[np.asarray(image, dtype=np.uint16)])
        grey, *alpha = image.convert("LA").split() if transparent else (image.convert("L"),)
        grey = grey.point(_numbers(self._light[0]).tolist())
        return Image.merge("LA", (grey, *alpha)) if alpha else grey


def _numbers(light: np.ndarray) -> np.ndarray:
    """sRGB's numbers, uint8, of its light; what it cannot show is cut off."""
    return _TO_SRGB[(light.clip(0, 1) * 65535 + 0.5).astype(np.uint16)]


@dataclass(frozen=True)
class Taken:
    """``colours``: what is to be converted; None: the numbers are taken as sRGB's. ``remark``: what a person
    should know of that; "" where nothing is to be said."""

    colours: Colours | None = None
    remark: str = ""


def colours_of(info: Mapping[Any, Any], mode: str) -> Taken:
    """Of a picture that Pillow has opened, by its ``info`` and ``mode``."""
    if mode == "CMYK":
        return Taken(remark="CMYK, brought to RGB without its profile")
    try:
        if "icc_profile" in info:
            colours = Colours(_fitting(read_profile(info["icc_profile"] or b""), mode))
        elif "srgb" in info or not {"gamma", "chromaticity"} & info.keys():
            return Taken()
        else:
            colours = Colours(_of_chunks(info, mode in _GREYS))
        if colours.are_srgb:
            return Taken()
    except NotRead as error:
        what = f"the colour profile {profile_name(info.get('icc_profile') or b'')}".strip()
        what = what if "icc_profile" in info else "what the file says of its colours (gAMA, cHRM)"
        return Taken(remark=f"{what} is not read, for it is {error}; taken as sRGB")
    return Taken(colours, f"colours brought from {colours.profile.name or 'their profile'} to sRGB")


def _fitting(profile: Profile, mode: str) -> Profile:
    """Raises NotRead for colours where there is but grey in 16 bits, and the other way round."""
    if (profile.colorants is None and mode not in (*_GREYS, "1")) or (
        profile.colorants is not None and mode.startswith("I")
    ):
        raise NotRead("of another kind than the picture")
    return profile


def _of_chunks(info: Mapping[Any, Any], grey: bool) -> Profile:
    """gAMA and cHRM of a PNG, each as sRGB has it where the file does not say."""
    gamma = float(info.get("gamma", _SRGB_GAMMA))
    places = tuple(map(float, info.get("chromaticity", _SRGB_PLACES)))
    same = len(places) == 8 and np.allclose(places, _SRGB_PLACES, rtol=0, atol=_SAME_PLACE)
    if not _GAMMAS[0] <= gamma <= _GAMMAS[1]:
        raise NotRead("damaged")
    curve = _SRGB_CURVE if abs(gamma - _SRGB_GAMMA) < _SAME_GAMMA else Curve(g=1 / gamma)
    name = f"gamma {1 / gamma:.3g}" if same or grey else f"gamma {1 / gamma:.3g} and colorants of its own"
    if grey:
        return Profile(name, (curve,))
    try:
        with np.errstate(all="ignore"):
            colorants = _to_d50(_SRGB_PLACES if same else places)
    except (ValueError, np.linalg.LinAlgError):
        raise NotRead("damaged") from None
    if not np.isfinite(colorants).all():
        raise NotRead("damaged")
    return Profile(name, (curve,) * 3, colorants)
