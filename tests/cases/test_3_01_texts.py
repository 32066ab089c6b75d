"""Captions, templates, prompts and data set files that would grow without end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.data.captions import read_caption
from lib_ti.data.dataset import read_pictures, subsets_of
from lib_ti.data.sd_scripts_config import read_dataset_config
from lib_ti.data.sd_scripts_prompts import read_prompts
from lib_ti.data.templates import fill
from lib_ti.hosts.prompts import parse_emphasis
from lib_ti.methods.network_args import read_network_args


def _refused(do: Callable[[], object], match: str) -> None:
    start = time.process_time()
    with pytest.raises(BadInput, match=match) as caught:
        do()
    assert time.process_time() - start < 2
    assert len(str(caught.value)) < 600


def test_a_template_times_a_caption() -> None:
    """A line of 90,000 [filewords] and a caption of a megabyte are 90 GB."""
    _refused(
        lambda: fill("[filewords]" * 90_000, name="cat", filewords="x" * 1_000_000), "characters; at most"
    )
    _refused(lambda: fill("[name]" * 90_000, name="c" * 100, filewords=""), "characters; at most")
    _refused(lambda: fill("[filewords]", name="c" * 100, filewords="[name]" * 19_000), "characters; at most")
    _refused(lambda: fill("[name2]" * 2_000, name="c", filewords="", others=["x" * 100]), "at most")
    assert fill("a [filewords], [name]", name="cat", filewords="x" * 5_000).endswith("x, cat")


def test_a_caption_of_megabytes(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("a cat, " * 100_000)
    _refused(lambda: read_caption(tmp_path / "1.png"), "at most")


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        ("(" * 1_000_000, "characters"),
        ("(a" * 9_000, "brackets"),
        ("[(" * 5_000 + ")]" * 5_000, "brackets"),
        ("(" * 101 + "cat" + ")" * 101, "brackets"),
    ],
)
def test_prompts_of_a_million_brackets(prompt: str, match: str) -> None:
    _refused(lambda: parse_emphasis(prompt), match)


@pytest.mark.parametrize(
    "prompt", ["(a:" + "1" * 19_000, "(a:" * 100 + " " * 19_000, " " * 19_999, "a BREAK" + " " * 19_000 + "b"]
)
def test_prompts_that_repeat_a_sign_are_read_at_once(prompt: str) -> None:
    start = time.process_time()
    parse_emphasis(prompt)
    assert time.process_time() - start < 1


def test_brackets_and_breaks_as_ever() -> None:
    assert parse_emphasis("a BREAK  b BREAK BREAK c") == [[("a", 1)], [("b", 1)], [], [("c", 1)]]
    assert parse_emphasis("BREAKs (x: 1.5 )")[0][1] == ("x", 1.5)
    ((deep,),) = parse_emphasis("(" * 100 + "cat" + ")" * 100)
    assert deep[1] == pytest.approx(1.1**100)


def test_files_of_a_million_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\n" * 400_000)
    _refused(lambda: read_prompts(path), "prompts; at most")
    path.write_text("a" + " " * 500_000 + "b")
    _refused(lambda: read_prompts(path), "characters")
    path.write_text("a" + " " * 19_000 + "b --w 64")
    assert read_prompts(path)[0].said == {"width": "64"}
    table = tmp_path / "prompts.toml"
    keys = "".join(f"k{i} = 1\n" for i in range(20_000))
    table.write_text(f"[prompt]\n{keys}" + '[[prompt.subset]]\nprompt = "a"\n' * 10_000)
    _refused(lambda: read_prompts(table), "at most")


def test_data_set_files_of_a_million_tables(tmp_path: Path) -> None:
    path = tmp_path / "data.toml"
    path.write_text("[[datasets]]\n" + '[[datasets.subsets]]\nimage_dir = "a"\n' * 2_000)
    _refused(lambda: read_dataset_config(PictureSettings(dataset_config=str(path))), "tables; at most")
    path.write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nnum_repeats = 4000000000\n')
    _refused(lambda: read_dataset_config(PictureSettings(dataset_config=str(path))), "num_repeats")


def test_folders_that_repeat_without_end(tmp_path: Path) -> None:
    (tmp_path / "99999999999_cat").mkdir()
    _refused(lambda: subsets_of(PictureSettings(images=str(tmp_path))), "repeat")


def test_an_epoch_without_end(tmp_path: Path) -> None:
    folder = tmp_path / f"{limits.REPEATS}_cat"
    folder.mkdir()
    for number in range(limits.SHOWN // limits.REPEATS + 1):
        (folder / f"{number}.png").touch()
    settings = PictureSettings(images=str(tmp_path))
    _refused(lambda: read_pictures(subsets_of(settings), settings), "repeats counted")


def test_network_arguments_without_end() -> None:
    _refused(lambda: read_network_args([f"block_dims={'4,' * 10_000}"]), "characters")
