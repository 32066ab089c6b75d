from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.data.tags import Edit, captions_in, count_tags, edit_captions, sidecar

CAPTIONS = ["1girl, red hair, smile", "1girl,smile ,  hat", "a photo of a dog", ""]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (Edit(), CAPTIONS),
        (Edit(find="smile", replace="grin"), ["1girl, red hair, grin", "1girl,grin ,  hat", *CAPTIONS[2:]]),
        (Edit(find="1girl.", replace="x"), CAPTIONS),  # taken as it is written
        (
            Edit(find=r"^(\w+), (.+)$", replace=r"\2, \1", regex=True),
            ["red hair, smile, 1girl", *CAPTIONS[1:]],
        ),
        (Edit(remove=("smile", "hat")), ["1girl, red hair", "1girl", *CAPTIONS[2:]]),
        (
            Edit(prepend=("zqx", "1girl"), add=("hat",)),
            [
                "zqx, 1girl, red hair, smile, hat",
                "zqx, 1girl, smile, hat",
                "zqx, 1girl, a photo of a dog, hat",
                "zqx, 1girl, hat",
            ],
        ),
        (Edit(sort="by name"), ["1girl, red hair, smile", "1girl, hat, smile", *CAPTIONS[2:]]),
        (
            Edit(sort="by frequency", find="1girl", replace="zqx"),
            ["smile, zqx, red hair", "smile, zqx, hat", *CAPTIONS[2:]],
        ),
        (
            Edit(sort="by name", keep=2),
            ["1girl, red hair, smile", "1girl, smile, hat", *CAPTIONS[2:]],
        ),
    ],
)
def test_editing(edit: Edit, expected: list[str]) -> None:
    assert edit_captions(CAPTIONS, edit) == expected


def test_another_separator() -> None:
    assert edit_captions(["b; a,c"], Edit(sort="by name", separator=";")) == ["a,c; b"]
    with pytest.raises(BadInput, match="separator"):
        edit_captions(["a"], Edit(add=("b",), separator=" "))


def test_tags_are_counted_once_a_caption_the_most_frequent_first() -> None:
    counts = count_tags([*CAPTIONS, "smile, smile, Art"])
    assert list(counts.items())[:2] == [("smile", 3), ("1girl", 2)]
    assert list(counts)[2:] == ["a photo of a dog", "Art", "hat", "red hair"]


def test_captions_by_the_file_that_they_are_or_would_be_in(tmp_path: Path) -> None:
    for name in ("01-a cat.png", "b.jpg", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "b.txt").write_text("words\n")
    assert captions_in(tmp_path) == {tmp_path / "01-a cat.txt": "a cat", tmp_path / "b.txt": "words"}


@pytest.mark.parametrize("extension", [".png", ".JPG", "txt", "./x", "/../x.txt", ""])
def test_captions_take_no_other_files_place(tmp_path: Path, extension: str) -> None:
    with pytest.raises(BadInput, match="caption-extension"):
        sidecar(tmp_path / "cat.jpg", extension)
