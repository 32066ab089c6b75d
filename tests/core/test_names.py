from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.core.names import (
    below,
    files_inside,
    find_named,
    folders_inside,
    local_path,
    named_file,
    new_path,
    safe_name,
    suggest_name,
)

# Each would leave its folder, or be another file than it seems, on one system or another.
NOT_NAMES = [
    "",
    "x" * 101,
    "\u4e2d" * 70,  # 210 bytes
    *("..", ".", ".hidden", "x.", "x ", " x", "x. "),
    *("../x", "..\\x", "a/b", "a\\b", "/etc/passwd", "~/x", "C:x", "C:\\x", "\\\\server\\share", "x:stream"),
    *(
        "con",
        "CON.txt",
        "nul .txt",
        "aux.tar.gz",
        "Com1",
        "LPT9.pt",
        "com\u00b9",
        "LPT\u00b3.pt",
        "\uff23\uff2f\uff2e",
    ),
    *(
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\u202eb",
        "a\u200bb",
        "\ud800",
        "a\uff0fb",
        "<b>",
        'a"b',
        "a|b",
        "a*b",
        "a?b",
        "$x",
        "`x`",
    ),
    "e" + "\u0301" * 500,
]


@pytest.mark.parametrize("name", NOT_NAMES, ids=ascii)
def test_s7_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot be a name"):
        safe_name(name)


@pytest.mark.parametrize(
    "name", ["cat", "my-cat_2.5", "a b", "\u732b", "console", "com10", "null", "caf\u00e9", "x" * 100]
)
def test_a_name_stays_as_it_is(name: str) -> None:
    assert safe_name(name) == name


def test_s7_accents_are_composed() -> None:
    """Two ways to write one name must not be two files on one system and one on another."""
    assert safe_name(unicodedata.normalize("NFD", "caf\u00e9")) == "caf\u00e9"


@pytest.mark.parametrize("name", NOT_NAMES, ids=ascii)
def test_a_suggestion_is_a_name(name: str) -> None:
    assert safe_name(suggest_name(name))


def test_a_suggestion_is_free() -> None:
    assert suggest_name("Tom", ["tom", "TOM-2"]) == "Tom-3"
    assert suggest_name("<tom>/cat") == "tom-cat"
    assert suggest_name("con") == "my-con"


def test_s7_a_new_path_stands_in_its_folder_alone(tmp_path: Path) -> None:
    assert new_path(tmp_path / "not-there", "tom.pt") == tmp_path / "not-there" / "tom.pt"
    (tmp_path / "tom.pt").touch()
    assert new_path(tmp_path, "tom.pt") == tmp_path / "tom.pt"
    with pytest.raises(BadInput, match="in other capitals already"):
        new_path(tmp_path, "Tom.PT")


def test_s7_a_link_out_of_the_folder_is_not_written_through(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    (inside / "out.pt").symlink_to(outside / "x.pt")
    (inside / "in.pt").symlink_to(inside / "x.pt")
    with pytest.raises(BadInput, match="a link that leads out"):
        new_path(inside, "out.pt")
    assert new_path(inside, "in.pt") == inside / "in.pt"


def test_s14_listings_hold_files_of_the_folder_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    for path in (inside / "sub" / "a.pt", inside / ".b.pt", inside / "c.txt", outside / "secret.pt"):
        path.touch()
    (inside / "secret.pt").symlink_to(outside / "secret.pt")
    (inside / "elsewhere").symlink_to(outside)
    os.mkfifo(inside / "pipe.pt")  # whoever opens it waits for ever
    assert files_inside(inside, {".pt"}) == {"sub/a.pt": inside / "sub" / "a.pt"}
    assert folders_inside(inside) == {"sub": inside / "sub"}


def test_names_of_new_files() -> None:
    suffixes = {".safetensors", ".pt", ".bin"}
    assert named_file(Path("a/cat"), suffixes) == Path("a/cat.safetensors")
    assert named_file(Path("a/cat.BIN"), suffixes) == Path("a/cat.BIN")
    with pytest.raises(BadInput, match=r"cat\.png: expected a name ending in \.safetensors, \.bin, \.pt"):
        named_file(Path("cat.png"), suffixes)


@pytest.mark.parametrize("name", ["../b", "/b", "sub/../a", "..\\b", "b", ""])
def test_s14_only_what_is_listed_is_found(name: str) -> None:
    with pytest.raises(BadInput, match="is none of the files"):
        find_named(name, {"sub/a.pt": Path("sub/a.pt")}, "files")


@pytest.mark.parametrize(
    "text",
    [
        "\\\\server\\share",
        "//server/share",
        "\\/server",
        "\\\\?\\C:\\x",
        "\\\\.\\pipe\\x",
        "a\0b",
        "a\nb",
        "x" * 5000,
        "/" + "x" * 256,
    ],
)
def test_s3_a_folder_of_another_computer_is_refused(text: str) -> None:
    for find in (local_path, lambda text: below(Path("/data"), text)):
        with pytest.raises(BadInput, match=r"lies on another computer|is no path"):
            find(text)


def test_a_folder_of_this_computer() -> None:
    assert local_path("~/cats") == Path.home() / "cats"
    assert local_path("../cats") == Path("../cats")


def test_s14_a_file_names_what_is_below_it_or_written_whole() -> None:
    folder = Path("/data/set")
    assert below(folder, "10_cat") == folder / "10_cat"
    assert below(folder, "/pictures/cat") == Path("/pictures/cat")
    for text in ("../x", "a/../../x", "..", "a\\..\\b", "/data/../etc"):
        with pytest.raises(BadInput, match="leads out of its folder"):
            below(folder, text)
