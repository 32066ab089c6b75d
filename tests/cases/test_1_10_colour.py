"""Colours that are not sRGB's are brought there, or it is told that they are not; so are animations."""

from __future__ import annotations

import shutil
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.settings import build
from lib_ti.data.buckets import Size
from lib_ti.data.colour import Colours
from lib_ti.data.icc import NotRead, read_profile
from lib_ti.data.images import open_image, open_numbers, read_head, remarks_told
from lib_ti.data.known_files import KnownFiles
from lib_ti.data.latent_store import LatentStore
from lib_ti.data.latents import cache_latents
from lib_ti.data.masks import load_mask
from lib_ti.data.views import Framed, View
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.tools.image_tools import LookSettings, MakeSettings, ResizeSettings
from lib_ti.tools.images import look, make
from lib_ti.tools.resizing import resize
from lib_ti.tools.tool import Context

FILES = Path(__file__).parent / "files" / "image"
# Of Display P3 with a gamma of 2.2, and with sRGB's curve; littlecms says the same.
GREEN, IN_SRGB, BY_CURVE = (0, 200, 60), (0, 205, 0), (0, 204, 14)

# Colorants of Display P3 and sRGB at D50, as their makers' profiles have them.
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def para(kind: int, *values: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(*values)


def curv(*values: int) -> bytes:
    return b"curv" + bytes(4) + struct.pack(f">I{len(values)}H", len(values), *values)


def profile(
    tags: dict[bytes, bytes], space: bytes = b"RGB ", kind: bytes = b"mntr", pcs: bytes = b"XYZ "
) -> bytes:
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    size = struct.pack(">I", start + len(body))
    head = (size + bytes(4) + b"\x04\x20\0\0" + kind + space + pcs).ljust(36, b"\0") + b"acsp"
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def matrix_profile(colorants: Any, curve: bytes, **more: bytes) -> bytes:
    tags = {
        name: b"XYZ " + bytes(4) + fixed(*xyz)
        for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 11) + b"Display P3\0"
    return profile({**tags, **{name.encode(): tag for name, tag in more.items()}})


P3_PROFILE = matrix_profile(P3, para(3, *SRGB_CURVE))


def table_of_srgb(count: int) -> bytes:
    x = np.linspace(0, 1, count)
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return curv(*(light * 65535).round().astype(int).tolist())


def save(path: Path, color: Any = GREEN, mode: str = "RGB", size: Size = (8, 8), **options: Any) -> Path:
    Image.new(mode, size, color).save(path, **options)
    return path


def pixel(path: Path) -> Any:
    return open_image(path).getpixel((1, 1))


@pytest.mark.parametrize("name", ["p3.png", "p3.jpg"])
def test_a_display_p3_picture_is_learned_in_srgb(name: str) -> None:
    assert pixel(FILES / name) == IN_SRGB
    head = read_head(FILES / name)
    assert head.converted and "to sRGB" in head.remarks[0]


def test_a_profile_of_srgb_changes_nothing_to_the_bit() -> None:
    stored = Image.open(FILES / "icc_srgb.png", formats=("PNG",))
    assert np.array_equal(np.asarray(open_image(FILES / "icc_srgb.png")), np.asarray(stored))
    head = read_head(FILES / "icc_srgb.png")
    assert not head.converted and head.remarks == ()


@pytest.mark.parametrize("curve", [para(3, *SRGB_CURVE), table_of_srgb(1024), table_of_srgb(4096)])
def test_curves_by_formula_and_by_table(tmp_path: Path, curve: bytes) -> None:
    assert pixel(save(tmp_path / "a.png", icc_profile=matrix_profile(P3, curve))) == BY_CURVE
    srgb = save(tmp_path / "b.png", (3, 100, 250), icc_profile=matrix_profile(SRGB, curve))
    assert pixel(srgb) == (3, 100, 250) and not read_head(srgb).converted


@pytest.mark.parametrize(
    "curve",
    [
        curv(round(1.8 * 256)),
        para(0, 1.8),
        para(1, 1.8, 1, 0),
        para(2, 1.8, 1, 0, 0),
        para(4, 1.8, 1, 0, 1, 0, 0, 0),
    ],
)
def test_a_gamma_in_each_way_to_write_it(tmp_path: Path, curve: bytes) -> None:
    light = (100 / 255) ** 1.8
    expected = round((1.055 * light ** (1 / 2.4) - 0.055) * 255)
    got = pixel(save(tmp_path / "a.png", (100, 100, 100), icc_profile=matrix_profile(SRGB, curve)))
    assert max(abs(channel - expected) for channel in got) <= 1 and expected == 119


def test_grey_profiles_change_grey_pictures_of_any_depth(tmp_path: Path) -> None:
    linear = profile({b"kTRC": curv()}, b"GRAY")
    assert pixel(save(tmp_path / "a.png", 55, "L", icc_profile=linear)) == 128
    assert pixel(save(tmp_path / "b.png", (55, 7), "LA", icc_profile=linear)) == (128, 7)
    Image.fromarray(np.full((4, 4), 55 * 257, np.uint16)).save(tmp_path / "c.png", icc_profile=linear)
    assert pixel(tmp_path / "c.png") == 128
    assert read_head(save(tmp_path / "d.png", icc_profile=linear)).remarks == (
        "the colour profile is not read, for it is of another kind than the picture; taken as sRGB",
    )


def test_transparency_stays_and_colour_keys_hold(tmp_path: Path) -> None:
    assert pixel(save(tmp_path / "a.png", (*GREEN, 9), "RGBA", icc_profile=P3_PROFILE)) == (*BY_CURVE, 9)
    assert pixel(save(tmp_path / "b.png", transparency=GREEN, icc_profile=P3_PROFILE)) == (*BY_CURVE, 0)
    palette = Image.new("RGB", (8, 8), GREEN).quantize(2)
    palette.save(tmp_path / "c.png", icc_profile=P3_PROFILE)
    assert pixel(tmp_path / "c.png") == BY_CURVE


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (matrix_profile(P3, curv(), A2B0=bytes(60)), "Display P3 is not read, for it is made of lookup"),
        (profile({}, b"CMYK"), "is not read, for it is of CMYK"),
        (profile({b"kTRC": b"?"}, kind=b"link"), "without colorants and curves"),
        (matrix_profile(P3, curv(), cicp=b"cicp" + bytes(4) + b"\x09\x10\x00\x01"), "of HDR"),
        (P3_PROFILE[:200], "damaged"),
        (b"no profile", "damaged"),
        (matrix_profile(P3, para(0, float("-3"))), "damaged"),
    ],
)  # fmt: skip
def test_other_profiles_are_told_and_taken_as_srgb(tmp_path: Path, content: bytes, why: str) -> None:
    path = save(tmp_path / "a.png", icc_profile=content)
    head = read_head(path)
    assert pixel(path) == GREEN and not head.converted
    assert why in head.remarks[0] and head.remarks[0].endswith("taken as sRGB")


def test_cmyk_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", (0, 99, 99, 0), "CMYK")
    assert "CMYK" in read_head(path).remarks[0]
    open_image(path)


def test_adobe_rgb_by_exif_alone_is_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 2}
    path = save(tmp_path / "a.jpg", exif=exif.tobytes())
    assert read_head(path).remarks == ("Adobe RGB by EXIF, without a colour profile; taken as sRGB",)


def with_chunks(path: Path, *chunks: tuple[bytes, bytes]) -> Path:
    data = path.read_bytes()
    told = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    path.write_bytes(data[:33] + told + data[33:])  # behind IHDR
    return path


P3_PLACES = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_PLACES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def gama(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def test_gama_and_chrm_of_png_count_where_no_better_is_there(tmp_path: Path) -> None:
    """1 / 2.2 is how gAMA says sRGB."""
    plain = with_chunks(save(tmp_path / "a.png"), gama(0.45455), (b"cHRM", SRGB_PLACES))
    assert pixel(plain) == GREEN and read_head(plain).remarks == ()
    assert pixel(with_chunks(save(tmp_path / "b.png"), (b"cHRM", P3_PLACES))) == BY_CURVE
    linear = with_chunks(save(tmp_path / "c.png", (55, 55, 55)), gama(1))
    assert pixel(linear) == (128, 128, 128)
    assert read_head(linear).remarks == ("colours brought from gamma 1 to sRGB",)
    assert pixel(with_chunks(save(tmp_path / "d.png", 55, "L"), gama(1))) == 128
    sure = with_chunks(save(tmp_path / "e.png"), (b"sRGB", b"\0"), gama(1))
    assert pixel(sure) == GREEN
    for number, chunk in enumerate([gama(0), gama(20_000), (b"cHRM", bytes(32))]):
        broken = with_chunks(save(tmp_path / f"f{number}.png"), chunk)
        assert pixel(broken) == GREEN and "gAMA, cHRM) is not read" in read_head(broken).remarks[0]


@pytest.mark.parametrize("name", ["anim.webp", "apng.png"])
def test_an_animation_is_its_first_frame_and_told(name: str) -> None:
    red, green, blue = open_image(FILES / name).convert("RGB").getpixel((40, 40))
    assert red > 250 and green < 5 and blue < 5
    assert remarks_told([(name, read_head(FILES / name).remarks)]) == [
        f"1 picture: an animation, of which the first picture is taken ({name})"
    ]


def test_masks_are_numbers_and_no_colours(tmp_path: Path) -> None:
    mask = save(tmp_path / "a_att.png", 127, "L", icc_profile=profile({b"kTRC": curv()}, b"GRAY"))
    assert open_numbers(mask).getpixel((1, 1)) == 127
    weights = load_mask(Image.new("RGB", (8, 8)), tmp_path / "a.png", mask, False)
    assert weights is not None and weights.getextrema() == (1, 1)


def test_latents_that_were_kept_before_are_not_taken_for_the_converted(tmp_path: Path) -> None:
    asked = 0

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal asked
        asked += 1
        return pixels[..., ::8, ::8], pixels[..., ::8, ::8]

    store = LatentStore(tmp_path / "kept", encode)
    head = read_head(FILES / "p3.png")
    before = Framed(FILES / "p3.png", "0" * 64, (64, 64), [View()])
    now = Framed(FILES / "p3.png", "0" * 64, (64, 64), [View()], converted=head.converted)
    cache_latents([before], encode, store)
    known = asked
    cache_latents([now], encode, store)
    assert asked == known + 1
    cache_latents([now, before], encode, store)
    assert asked == known + 1


def test_what_is_remembered_of_a_file_has_its_colours(tmp_path: Path) -> None:
    shutil.copy(FILES / "p3.png", tmp_path / "a.png")
    (tmp_path / "a.png").touch()
    for age in (0, 10):
        files = KnownFiles(tmp_path / "files.json")
        facts = files.facts(tmp_path / "a.png")
        assert facts.converted and len(facts.remarks) == 1, age
        files.save()


def test_tools_agree_and_tell(tmp_path: Path) -> None:
    context = Context(lambda: False, lambda done, of: None, pytest.fail, pytest.fail, folders_under(tmp_path))
    source = tmp_path / "source"
    source.mkdir()
    save(source / "a.png", size=(64, 64), icc_profile=P3_PROFILE)
    save(source / "a_att.png", 127, "L", size=(64, 64), icc_profile=profile({b"kTRC": curv()}, b"GRAY"))
    told = "1 picture: colours brought from Display P3 to sRGB (a.png)"
    answers = [
        resize(ResizeSettings(str(source), str(tmp_path / "small"), "16x16", png=True), context),
        make(MakeSettings(str(source), str(tmp_path / "made"), flip=True), context),
        look(LookSettings(str(source)), context),
    ]
    assert all(told in answer.notes for answer in answers)
    for copy in (tmp_path / "small" / "a+16x16.png", tmp_path / "made" / "a_flip.png"):
        assert pixel(copy) == BY_CURVE and not read_head(copy).converted
        assert "icc_profile" not in Image.open(copy, formats=("PNG",)).info
    assert pixel(tmp_path / "made" / "a.png") == BY_CURVE  # copied, its profile with it
    assert open_numbers(tmp_path / "small" / "a+16x16_att.png").convert("L").getpixel((1, 1)) == 127


def test_a_job_tells_it_and_does_so_again_on_resuming(
    host: StandaloneHost, tmp_path: Path, settings: dict[str, Any]
) -> None:
    shutil.copy(FILES / "p3.png", Path(settings["images"]) / "p3.png")
    shutil.copy(FILES / "anim.webp", Path(settings["images"]) / "anim.webp")
    told = build(InversionSettings, {**settings, "steps": 2, "preview_every": 0})
    ways = {"folders": folders_under(tmp_path), "report": lambda event: None}
    began = start(host, told, model="builtin", stopped=lambda: True, **ways)
    ended = resume(host, began.job, stopped=lambda: False, **ways)
    for outcome in (began, ended):
        said = outcome.as_json()["messages"]
        assert "1 picture: colours brought from P3ish to sRGB (p3.png)" in said
        assert "1 picture: an animation, of which the first picture is taken (anim.webp)" in said


def test_no_profile_does_harm() -> None:
    rng = np.random.default_rng(1)
    seeds = [P3_PROFILE, matrix_profile(P3, table_of_srgb(64)), profile({b"kTRC": curv(512)}, b"GRAY")]
    for number in range(3000):
        content = bytearray(seeds[number % 3])
        for place in rng.integers(0, len(content), rng.integers(1, 6)):
            content[place] = rng.choice([0, 1, 255, rng.integers(256)])
        with suppress(NotRead):
            end = int(rng.integers(1, len(content) + 1)) if number % 5 == 0 else len(content)
            assert Colours(read_profile(bytes(content[:end]))).are_srgb in (True, False)


def test_a_damaged_picture_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((FILES / "p3.png").read_bytes()[:100])
    with pytest.raises(BadInput, match="cannot be read as a PNG"):
        open_image(tmp_path / "a.png")
