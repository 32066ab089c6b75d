"""Pictures without a caption file, files that look like captions, and paths of Windows in data set files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lib_ti.commands.sd_scripts_file import read_options
from lib_ti.core.errors import BadInput
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.core.settings import build
from lib_ti.data.beside import captions_told, unread_told
from lib_ti.data.images import find_images
from lib_ti.data.sd_scripts_config import read_dataset_config
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.tools.captions import edit
from lib_ti.tools.image_tools import EditSettings, LookSettings, MakeSettings
from lib_ti.tools.images import look, make
from lib_ti.tools.tool import Context

FILES = Path(__file__).parent / "files" / "dataset"

CAPTION_ONLY = [
    "no caption file (.txt): 1 of 1 picture, whose captions are their file names (1.png)",
    (
        "not read, though they look like captions: 1 file (1.caption); call them 1.txt beside 1.png, or give "
        "their ending as caption-extension"
    ),
]


@pytest.mark.parametrize(
    ("folder", "without", "alike"),
    [
        ("caponly", "1 of 1 picture, ", "1 file (1.caption)"),
        ("doubled", "1 of 1 picture, ", "1 file (1.png.txt)"),
        ("upper", "2 of 3 pictures, ", "1 file (A.TXT)"),
    ],
)
def test_the_cases(folder: str, without: str, alike: str) -> None:
    pictures = find_images(FILES / folder)
    missing, other = captions_told(pictures, ".txt")
    assert missing.startswith(f"no caption file (.txt): {without}") and alike in other


def test_pictures_in_capitals_are_pictures() -> None:
    assert [path.name for path in find_images(FILES / "upper")] == ["A.JPG", "B.Png", "C.JPEG"]


def picture(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path)


def test_what_is_read_is_not_told_and_what_is_no_caption_is_not_either(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for name in ("a.txt", "notes.txt", "a.json", ".a.caption"):
        (tmp_path / name).write_text("a cat")
    assert captions_told([tmp_path / "a.png"], ".txt") == []
    (tmp_path / "a.txt.txt").write_text("a cat")
    assert "1 file (a.txt.txt)" in captions_told([tmp_path / "a.png"], ".txt")[0]
    missing, other = captions_told([tmp_path / "a.png"], ".tags", "red cat")
    assert 'whose captions are "red cat" (a.png)' in missing and "1 file (a.txt)" in other


def test_pictures_of_other_kinds_are_told(tmp_path: Path) -> None:
    for name in ("a.gif", "b.JFIF", "c.avif", "d.zip"):
        (tmp_path / name).touch()
    assert unread_told([tmp_path]) == [
        "not read: 3 pictures of another kind (a.gif, b.JFIF, c.avif); save them as PNG or JPEG"
    ]


def told_of_job(host: StandaloneHost, folder: Path, data: Path, **more: Any) -> list[str]:
    told = {"name": "zqx-cat", "images": str(folder), "steps": 1, "preview_every": 0, **more}
    ways = {"folders": folders_under(data), "report": lambda event: None}
    began = start(host, build(InversionSettings, told), model="builtin", stopped=lambda: True, **ways)
    ended = resume(host, began.job, stopped=lambda: False, **ways)
    said = began.as_json()["messages"]
    assert set(ended.as_json()["messages"]) > {line for line in said if "caption" in line}
    return said


def test_a_job_tells_where_captions_are_prompts_and_where_they_are_not(
    host: StandaloneHost, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(FILES / "caponly", folder)
    picture(folder / "2.png")
    (folder / "2.txt").write_text("blue")
    (folder / "3.gif").touch()
    said = told_of_job(host, folder, tmp_path, template="subject_filewords")
    assert "no caption file (.txt): 1 of 2 pictures, whose captions are their file names (1.png)" in said
    assert CAPTION_ONLY[1] in said and any("(3.gif)" in line for line in said)
    said = told_of_job(host, folder, tmp_path, template="subject", name="zqx-dog")
    assert "captions of 1 picture are in no prompt: the template has no [filewords]" in said
    assert CAPTION_ONLY[1] not in said


def test_tools_tell_the_same(tmp_path: Path) -> None:
    shutil.copytree(FILES / "caponly", tmp_path / "source")
    source, context = (
        str(tmp_path / "source"),
        Context(lambda: False, lambda done, of: None, pytest.fail, pytest.fail, folders_under(tmp_path)),
    )
    answers = [
        look(LookSettings(source), context),
        make(MakeSettings(source, str(tmp_path / "made")), context),
        edit(EditSettings(source, add="cat"), context),
    ]
    assert [list(answer.notes) for answer in answers] == [CAPTION_ONLY] * 3


@pytest.mark.parametrize("name", ["backslash_bad.toml", "backslash_t.toml"])
def test_a_windows_path_in_double_quotes_is_named(name: str) -> None:
    with pytest.raises(BadInput, match=r"line 4 has a path with .* write it in single quotes, or with /"):
        read_dataset_config(PictureSettings(dataset_config=str(FILES / name)))


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        (r'"pics\data"', "Unescaped .* write a path in single quotes, or with /"),
        (r'"pics\new"', "image_dir: a sign in it cannot be shown; write a path with .* in single quotes"),
        (r'"C:\\pics"', "no images|does not exist"),
        (r"'C:\pics'", "no images|does not exist"),
    ],
)
def test_other_paths_of_a_data_set_file(tmp_path: Path, path: str, remedy: str) -> None:
    file = tmp_path / "data.toml"
    file.write_text(f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = {path}\n")
    with pytest.raises(BadInput, match=remedy):
        find_images(read_dataset_config(PictureSettings(dataset_config=str(file))).subsets[0].folder)


def test_json_and_files_of_options_have_the_same_fault(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"datasets": [{"subsets": [{"image_dir": "D:\\train"}]}]}')
    with pytest.raises(BadInput, match=r"line 1 has a path with .* write it with / or"):
        read_dataset_config(PictureSettings(dataset_config=str(tmp_path / "data.json")))
    (tmp_path / "options.toml").write_text('train_data_dir = "D:\\train\\new"\n')
    with pytest.raises(BadInput, match=r"line 1 has a path with .* single quotes"):
        read_options(str(tmp_path / "options.toml"), {})
