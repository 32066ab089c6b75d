from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.data.captions import check_extension
from lib_ti.data.dataset import Picture, subsets_of
from lib_ti.data.dataset import read_pictures as read_pictures_of


def picture(path: Path, caption: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16)).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def read_pictures(settings: PictureSettings) -> list[Picture]:
    return read_pictures_of(subsets_of(settings), settings)


def told(**settings: object) -> list[tuple[str, str, int]]:
    pictures = read_pictures(PictureSettings(**settings))
    return [(p.path.name, p.caption, p.subset.repeats) for p in pictures]


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "02 red star.png")
    picture(tmp_path / "10.png", "a blue star")
    assert told(images=str(tmp_path)) == [("02 red star.png", "red star", 1), ("10.png", "a blue star", 1)]
    assert told(images=str(tmp_path), word_regex=r"[rb]\w+")[0] == ("02 red star.png", "red", 1)
    with pytest.raises(BadInput, match="images: missing"):
        read_pictures(PictureSettings())


def test_folders_named_after_their_repeats(tmp_path: Path) -> None:
    picture(tmp_path / "10_red cat" / "1 anything.png")
    picture(tmp_path / "10_red cat" / "2.png", "asleep")
    picture(tmp_path / "3_blue dog" / "1.png")
    picture(tmp_path / "other" / "1.png")
    assert told(images=str(tmp_path)) == [
        ("1 anything.png", "red cat", 10),
        ("2.png", "asleep", 10),
        ("1.png", "blue dog", 3),
    ]
    # A picture beside those folders means the folder itself, as ever.
    picture(tmp_path / "own.png")
    assert told(images=str(tmp_path)) == [("own.png", "own", 1)]


def test_an_empty_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no images directly in it"):
        read_pictures(PictureSettings(images=str(tmp_path)))
    with pytest.raises(BadInput, match="does not exist"):
        read_pictures(PictureSettings(images=str(tmp_path / "nowhere")))


def test_captions_get_their_prefix_and_suffix(tmp_path: Path) -> None:
    picture(tmp_path / "1 red.png")
    picture(tmp_path / "2.png", "")
    captions = [
        caption for _, caption, _ in told(images=str(tmp_path), caption_prefix="zqx,", caption_suffix="(end)")
    ]
    assert captions == ["zqx, red (end)", "zqx, (end)"]
    with pytest.raises(BadInput, match="caption-separator: got nothing to split at"):
        read_pictures(PictureSettings(images=str(tmp_path), caption_separator=" "))


def test_captions_may_have_another_ending(tmp_path: Path) -> None:
    picture(tmp_path / "1 red.png", "read before")
    (tmp_path / "1 red.caption").write_text("read now")
    assert told(images=str(tmp_path), caption_extension=".caption") == [("1 red.png", "read now", 1)]
    for ending in ("", "txt", "./../1.txt"):
        with pytest.raises(BadInput, match=r"caption-extension: got .* expected an ending in \.txt"):
            check_extension(ending)


def test_regularisation_pictures_come_after_the_others(tmp_path: Path) -> None:
    picture(tmp_path / "own" / "zqx.png")
    picture(tmp_path / "reg" / "5_cat" / "1.png")
    settings = PictureSettings(images=str(tmp_path / "own"), reg_images=str(tmp_path / "reg"), flip=True)
    own, regular = read_pictures(settings)
    assert (own.subset.regularisation, regular.subset.regularisation) == (False, True)
    assert (regular.caption, regular.subset.repeats, regular.subset.flip) == ("cat", 5, True)


def test_masks_belong_to_their_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    mask = picture(tmp_path / "1_att.png")
    assert [p.mask for p in read_pictures(PictureSettings(images=str(tmp_path)))] == [mask]
    assert [p.mask for p in read_pictures(PictureSettings(images=str(tmp_path), mask_files=False))] == [None]
