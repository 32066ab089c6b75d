from __future__ import annotations

from pathlib import Path

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.data.templates import (
    OUR_TEMPLATES,
    all_prompts,
    as_one_word,
    fill,
    find_template,
    list_templates,
    read_template,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``root`` with one template in it, and others that must stay out of reach."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "mine.txt").write_text("a [name]")
    (root / ".hidden.txt").write_text("[name]")
    (root / "below" / "deep.txt").write_text("[name]")
    (root / "folder.txt").mkdir()
    (root / "notes.md").write_text("[name]")
    (tmp_path / "secret.txt").write_text("[name]")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    return root


@pytest.mark.parametrize("name", ["mine", "mine.txt"])
def test_a_template_is_found_with_or_without_its_suffix(folder: Path, name: str) -> None:
    assert find_template(name, [folder]) == folder / "mine.txt"


def test_no_name_leaves_its_folder(folder: Path) -> None:
    secret = folder.parent / "secret.txt"
    names = ["../secret", "../secret.txt", "..\\secret", str(secret), str(secret.with_suffix("")), "link"]
    names += [
        "below/deep",
        "below/../mine",
        "./mine",
        f"{folder}/mine",
        "mine\0",
        "mine/",
        "",
        ".",
        "..",
        ".txt",
    ]
    names += [".hidden", "folder", "notes.md", "*", "mine.txt.txt", "~/secret"]
    for name in names:
        with pytest.raises(BadInput, match="choose one of: mine"):
            find_template(name, [folder])


def test_every_folder_is_offered_and_a_missing_one_does_no_harm(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("mine.txt", "more.txt"):
        (other / name).write_text("[name]")
    folders = [tmp_path / "missing", folder, other]
    assert list_templates(folders) == {
        "mine": folder / "mine.txt",
        f"mine ({tmp_path.name})": other / "mine.txt",
        "more": other / "more.txt",
    }
    assert find_template(f"mine ({tmp_path.name})", folders) == other / "mine.txt"
    with pytest.raises(BadInput, match="choose one of: none"):
        find_template("mine", [tmp_path / "missing"])


def test_empty_lines_are_left_out_and_there_are_no_comments(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf  a [name] \r\n\r\n\t\n# [filewords]\n")
    assert read_template(path) == ("a [name]", "# [filewords]")


def test_an_empty_an_undecodable_and_a_missing_template_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" \n")
    with pytest.raises(BadInput, match=r"a\.txt has no lines"):
        read_template(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match=r"a\.txt is not UTF-8"):
        read_template(path)
    with pytest.raises(BadInput, match=r"gone\.txt cannot be read"):
        read_template(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("a [name], [filewords]; [name]", "a zq, red, big; zq"),
        ("nothing", "nothing"),
        ("[Name] [file words] \\1", "[Name] [file words] \\1"),
    ],
)
def test_fill(line: str, prompt: str) -> None:
    assert fill(line, name="zq", filewords="red, big") == prompt


def test_a_name_in_the_caption_is_filled_and_filewords_in_a_name_are_not() -> None:
    assert fill("[filewords]", name="zq", filewords="a [name] on red") == "a zq on red"
    assert fill("[name] [filewords]", name="[filewords]", filewords="red") == "[filewords] red"


def test_further_names_stand_for_the_words_beside_the_first() -> None:
    line = "[name] with [name2], [filewords]"
    assert fill(line, name="zq", filewords="[name3]", others=("zr", "zs")) == "zq with zr, zs"
    assert fill(line, name="zq", filewords="") == "zq with [name2], "


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("mychar mychar1 mychar2, 1girl", "mychar, 1girl"),
        ("a photo of mychar  mychar1", "a photo of mychar"),
        ("(mychar mychar_1 mychar_2:1.2)", "(mychar:1.2)"),
        ("mychar mychar1, mychar mychar1", "mychar, mychar"),
        # What is not the tokens one after the other stays.
        ("mychar1 mychar", "mychar1 mychar"),
        ("mychar mychar2", "mychar mychar2"),
        ("mychar, mychar1", "mychar, mychar1"),
        ("mychar mychar1a", "mychar mychar1a"),
        ("notmychar mychar1", "notmychar mychar1"),
        ("my-mychar mychar1", "my-mychar mychar1"),
        ("mychar", "mychar"),
    ],
)
def test_a_word_in_the_tokens_of_sd_scripts_is_the_word(written: str, read: str) -> None:
    assert as_one_word(written, "mychar") == read
    assert fill("[filewords]", name="mychar", filewords=written) == read
    assert fill(written, name="other", filewords="", others=("mychar",)) == read


def test_a_word_that_is_called_like_a_token_is_a_word() -> None:
    assert fill("[name] [name2]", name="cat", filewords="", others=("cat1",)) == "cat cat1"


def test_no_word_has_no_tokens() -> None:
    assert as_one_word("10 11 12", "") == "10 11 12"


def test_all_prompts_are_distinct_and_in_order() -> None:
    lines = ("a [name]", "[filewords]", "a [name]", "[name] [filewords]")
    prompts = all_prompts(lines, "zq", ["red", "blue", "red"])
    assert prompts == ["a zq", "red", "zq red", "blue", "zq blue"]
    assert all_prompts(lines, "zq", ["red", "blue", "red"], limit=3) == prompts[:3]
    assert all_prompts(lines, "zq", []) == []


def test_our_templates_call_the_name_in_every_line() -> None:
    templates = list_templates()
    assert find_template("style") == OUR_TEMPLATES / "style.txt"
    # Captions that call the name themselves need nothing around them.
    assert tuple(read_template(templates.pop("captions"))) == ("[filewords]",)
    own = {"subject", "subject_filewords", "style", "style_filewords", "plain"}
    assert set(templates) == {*own, "official_object", "official_style"}
    for name, path in templates.items():
        lines = read_template(path)
        assert len(set(lines)) == len(lines) or name == "official_style"  # two of its sentences count twice
        assert all(line.count("[name]") == 1 for line in lines)
        if name != "plain":
            assert all(line.count("[filewords]") == name.endswith("_filewords") for line in lines)
