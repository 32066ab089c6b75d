"""Row 1.8: every form of the sentences that textual inversion was published with."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_ti.commands.sd_scripts import translate
from lib_ti.data.templates import find_template, read_template

LINE = ["train_textual_inversion.py", "--pretrained_model_name_or_path=x", "--token_string=zqx"]


@pytest.mark.parametrize(
    ("option", "template", "count", "some"),
    [
        (
            "--use_object_template",
            "official_object",
            27,
            {"a photo of a [name]", "a close-up photo of the [name]", "a photo of the weird [name]"},
        ),
        (
            "--use_style_template",
            "official_style",
            19,
            {"a painting in the style of [name]", "a rendition in the style of [name]"},
        ),
    ],
)
def test_a_line_draws_from_all_of_them(option: str, template: str, count: int, some: set[str]) -> None:
    translation = translate([*LINE, "--train_data_dir=x", option], Path())
    assert translation.ours["--template"] == template
    assert any(f"the {count} sentences of the official" in sentence for sentence in translation.told)
    lines = read_template(find_template(template))
    assert len(lines) == count and some <= set(lines)
    assert all("[name]" in line and not set("{|}") & set(line) for line in lines)


def test_the_sentences_of_objects_differ_and_two_of_styles_count_twice() -> None:
    assert len(set(read_template(find_template("official_object")))) == 27
    assert len(set(read_template(find_template("official_style")))) == 17


def test_braces_in_somebodys_own_template_are_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a {red|blue} [name]")
    assert read_template(tmp_path / "mine.txt") == ("a {red|blue} [name]",)
