"""The fourteen rules of SECURITY.md, by their numbers: what no line of ours does, and what a stranger's file,
name or text meets. What is tested beside the code names its rule there; SECURITY.md says where.

Every harmful thing is made here and is harmless: where it were carried out, a file would appear.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.core.settings import options_of
from lib_ti.data.images import open_image, read_head
from lib_ti.data.sd_scripts_config import read_dataset_config
from lib_ti.data.templates import find_template, read_template
from lib_ti.formats.content import content_of
from lib_ti.formats.embedding import Embedding, read_embeddings, write_pt, write_safetensors
from lib_ti.formats.pickles import read_torch_pickle
from lib_ti.formats.safetensors_file import read_tensors, write_tensors
from lib_ti.formats.streaming import open_tensors
from lib_ti.hosts.a1111_cards import UNKNOWN, base_family
from lib_ti.hosts.base import Folders
from lib_ti.jobs import folders_under
from lib_ti.methods.guidance import parse_guidance
from lib_ti.networks.files import read_network
from lib_ti.networks.prompt_files import NetworkFolders, metadata_of
from lib_ti.networks.prompt_metadata import save_metadata_text
from lib_ti.tools.embedding_import import ImportSettings, import_embedding
from lib_ti.tools.registry import TOOLS
from lib_ti.tools.tool import Context, Tool, in_folders
from lib_ti.workshop import _from_outside

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "studio.py", ROOT / "install.py", *sorted((ROOT / "scripts").glob("*.py"))]
SOURCES += sorted((ROOT / "lib_ti").rglob("*.py"))
VECTORS = {"clip_l": torch.ones(2, 768)}


READERS: list[Callable[[Path], object]] = [read_embeddings, read_network, open_tensors]
if importlib.util.find_spec("diffusers"):  # which a WebUI's Python lacks
    from lib_ti.hosts.single_file import load_file

    READERS.append(lambda path: load_file(path, torch.float32, None))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file, with what is called as it is written: ``torch.load``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def called(pattern: str, *, in_folder: str = "") -> list[str]:
    """Where something is called whose name fits."""
    return [
        f"{path.relative_to(ROOT)}:{call.lineno} {name}"
        for path in SOURCES
        if path.is_relative_to(ROOT / in_folder)
        for name, call in calls(path)
        if re.fullmatch(pattern, name)
    ]


class Harmful:
    """Where this is unpickled, the file ``path`` appears."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"echo ran > {self.path}",)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = folders_under(tmp_path)
    for folder in (folders.embeddings, folders.inbox, folders.networks, folders.cards, folders.datasets):
        folder.mkdir(parents=True)
    return folders


@pytest.fixture
def context(folders: Folders) -> Context:
    def no_model() -> None:
        raise BadInput("there is no model here.")

    return Context(lambda: False, lambda done, of: None, no_model, no_model, folders)  # type: ignore[arg-type]


def inspect(path: Path, folders: Folders, context: Context, to: str = "") -> str:
    """What the page says when the file in the inbox is looked at, or imported."""
    settings = in_folders(ImportSettings(path.name, to), folders)
    return import_embedding(settings, context).sentence


# 1: no text is carried out


def test_s1_no_code_is_made_from_text() -> None:
    assert called(r"eval|exec|compile|__import__|ast\.literal_eval|.*\.format_map|os\.(system|popen)") == []


def test_s1_no_text_of_others_is_a_format() -> None:
    """``"{0.__class__}".format(x)`` reads any attribute, and ``{:>9999999999}`` takes all memory."""
    assert called(r"[^'\"].*\.format") == []


@pytest.mark.parametrize("text", ["1-3:__import__('os').getpid()", "1-3:rate.real", "1-3:torch.sqrt(rate)"])
def test_s1_an_expression_is_arithmetic_alone(text: str) -> None:
    """The original DreamArtist evaluates this very field."""
    with pytest.raises(BadInput, match="guidance"):
        parse_guidance(text)


def test_s1_a_tensors_name_is_no_format(tmp_path: Path) -> None:
    word, path = "{:>9999999999}", tmp_path / "x.safetensors"
    write_tensors({word: torch.ones(768), word + "1": torch.ones(768)}, {}, path)
    assert read_embeddings(path)[0].count == 2


# 2, 8, 9: pickles are read by a machine that cannot do anything else


def test_s8_nothing_is_unpickled() -> None:
    """``weights_only=True`` is no proof, and what a deny-list forgets is run."""
    assert (
        called(r".*\b(pickle\.loads?|Unpickler|torch\.load|joblib\.load|shelve\.open|marshal\.loads?)") == []
    )
    assert called(r".*\b(np|numpy)\.load|yaml\.(load|full_load|unsafe_load)|pd\.read_pickle") == []


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("name", ["cat.pt", "cat.bin", "cat.safetensors", "cat.ckpt"])
def test_s9_a_pt_that_would_run_is_refused_by_every_reader(tmp_path: Path, new: bool, name: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / name
    content = {"string_to_param": {"*": VECTORS["clip_l"]}, "name": Harmful(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    for read in (read_embeddings, read_network, read_torch_pickle):
        with pytest.raises(BadInput, match=r"is refused: it asks for (posix|nt)\.system, and only tensors"):
            read(path)  # type: ignore[operator]
    assert open_tensors(path).plan == {}  # a checkpoint's odd entries are left out, and not built
    for read in READERS[3:]:
        with pytest.raises(BadInput, match="of another kind"):
            read(path)
    assert not marker.exists()


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return stream.getvalue()


def test_s2_what_two_readers_take_for_two_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.pt"
    write_pt(Embedding("cat", VECTORS), path)
    stream, harmless = path.read_bytes(), zipped(b"\x80\x02}.")
    for polyglot in (
        stream + harmless,  # a check reads the zip at the end, a loader the stream at the start
        b"\x89PNG\r\n\x1a\n" + harmless,
        b"\0" * 8 + harmless,
        harmless + harmless,  # the directory at the end tells of the second one alone
        (2).to_bytes(8, "little") + b"{}" + harmless,
        b"PK\x05\x06" + harmless,
    ):
        path.write_bytes(polyglot)
        for read in (read_embeddings, read_network, open_tensors):
            with pytest.raises(BadInput):
                read(path)  # type: ignore[operator]


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
def test_s2b_a_strangers_pt_leaves_as_safetensors(
    folders: Folders, context: Context, new: bool, tmp_path: Path
) -> None:
    """WebUIs without a guard unpickle whatever lies in embeddings/, so that no pickle may come there."""
    webui = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": VECTORS["clip_l"]},
        "name": "cat",
        "step": 9,
    }
    torch.save(webui, folders.inbox / "cat.pt", _use_new_zipfile_serialization=new)
    said = inspect(folders.inbox / "cat.pt", folders, context)
    assert "cat.pt is a pickle file of 1 embedding; nothing was written" in said
    assert list(folders.embeddings.iterdir()) == []
    inspect(folders.inbox / "cat.pt", folders, context, "tom")
    (written,) = folders.embeddings.iterdir()
    assert written.name == "tom.safetensors" and content_of(written)[0] == "safetensors"
    (found,) = read_embeddings(written)
    assert (found.name, found.step) == ("tom", 9) and torch.equal(found.vectors["clip_l"], VECTORS["clip_l"])


def test_s2b_what_would_run_never_comes_near_the_embeddings(folders: Folders, context: Context) -> None:
    marker = folders.inbox / "ran"
    torch.save({"cat": Harmful(marker)}, folders.inbox / "cat.pt")
    for to in ("", "tom"):
        with pytest.raises(BadInput, match="is refused: it asks for"):
            inspect(folders.inbox / "cat.pt", folders, context, to)
    assert not marker.exists() and list(folders.embeddings.iterdir()) == []


def test_s12_an_import_takes_no_name_that_is_taken_or_none(folders: Folders, context: Context) -> None:
    write_safetensors(Embedding("cat", VECTORS), folders.inbox / "cat.safetensors")
    (folders.embeddings / "cats").mkdir()
    write_safetensors(Embedding("Cat", VECTORS), folders.embeddings / "cats" / "Cat.safetensors")
    assert "cat as cat-2" in inspect(folders.inbox / "cat.safetensors", folders, context)
    for to, said in (
        ("cat", "called 'cat' already; 'cat-2' is free"),
        ("CAT.safetensors", "called 'CAT' already; 'CAT-2' is free"),
        ("../cat", "'../cat' cannot be a name.* 'cat' would do"),
        ("con", "Windows reserves it for a device; 'my-con' would do"),
        ("tom.pt", "expected a name without an ending"),
    ):
        with pytest.raises(BadInput, match=said):
            inspect(folders.inbox / "cat.safetensors", folders, context, to)


# 3 to 6: what a web page can reach


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: f"{tool.group} {tool.name}")
def test_s3_no_tool_takes_a_free_path_from_a_page(tool: Tool, folders: Folders) -> None:
    """Nor may a setting hold one without saying so: the doors look up what is marked as a file."""
    for name, (_, option, plain) in options_of(tool.settings).items():
        assert option.file or plain is not str or not re.search(r"path|folder|file|director", name)
        for bad in (
            "../x.safetensors",
            "/tmp/x.safetensors",
            "C:\\x.safetensors",
            "a/b",
            "\\\\host\\x",
            "x\0",
        ):
            if option.file and not (option.file == "pictures" and bad[0] in "./Ca"):
                with pytest.raises(BadInput):
                    in_folders(tool.settings(**{name: bad}), folders)


@pytest.mark.parametrize("name", ["images", "reg_images", "dataset_config", "weights"])
def test_s3_no_setting_of_a_page_names_another_computer(name: str) -> None:
    for place in ("\\\\host\\share", "//host/share"):
        with pytest.raises(BadInput, match="lies on another computer"):
            _from_outside({"name": "cat", name: place}, folders_under(Path("x")))


def test_s3_no_picture_is_drawn_where_a_page_says() -> None:
    with pytest.raises(BadInput, match="into a folder of the studio's own"):
        _from_outside(
            {"name": "cat", "images": "/x", "reg_images": "/home", "make_reg": 3}, folders_under(Path("x"))
        )


def test_s4_what_jobs_and_strangers_leave_is_never_served(tmp_path: Path) -> None:
    """gradio serves no folder whose name begins with a dot; nor is any other folder offered to it."""
    folders = folders_under(tmp_path)
    for folder in (folders.jobs, folders.datasets, folders.cards, folders.inbox):
        assert any(part.startswith(".") for part in folder.relative_to(tmp_path).parts)
    assert not any("allowed_paths" in path.read_text(encoding="utf-8") for path in SOURCES)


def test_s5_s6_no_control_that_reads_any_path_is_used() -> None:
    """gradio 3.41 copies the file that an upload names, wherever it lies, to where it is served."""
    risky = r"gr\.(File|Files|FileExplorer|UploadButton|JSON|Interface|Video|Audio|Model3D|Dataset|load)"
    assert called(risky) == [] and called(r".*flagging.*", in_folder="lib_ti/ui") == []


# 7: names; see tests/core/test_names.py


def test_s7_a_job_is_called_by_a_safe_name(tmp_path: Path) -> None:
    assert Job.reserve(tmp_path / "jobs", "../../x, y").folder.parent == tmp_path / "jobs"
    with pytest.raises(BadInput, match="no job"):
        Job.open(tmp_path / "jobs", "../../etc")


# 10: content decides, and never the name


def test_s10_a_name_says_nothing_about_a_file(tmp_path: Path) -> None:
    for name in ("cat.Safetensors", "cat.pt", "cat.bin", "cat"):
        write_safetensors(Embedding("cat", VECTORS), tmp_path / "x.safetensors")
        path = (tmp_path / "x.safetensors").rename(tmp_path / name)
        assert read_embeddings(path)[0].count == 2 and metadata_of(path)["trigger"] == "cat"


@pytest.mark.parametrize("name", ["cat.safetensors", "cat.pt", "cat.ckpt"])
def test_s10_what_is_nothing_known_is_refused_and_not_tried(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (
        b"",
        b"\x1f\x8b\x08",
        b"GGUF",
        b"PK",
        b"<html>",
        b"\x89PNG\r\n\x1a\n",
        b"MZ",
        b"cos\nsystem\n",
    ):
        path.write_bytes(content * 9)
        for read in READERS:
            with pytest.raises(BadInput, match=r"neither|is (no|not) .* but"):
                read(path)


def test_s10_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for read in (*READERS, open_image, read_template):
        with pytest.raises(BadInput, match="it is no file"):
            read(pipe)


# 11: limits before anything is allocated


def test_s11_a_header_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((90_000_000).to_bytes(8, "little") + b"{")
        file.truncate(100_000_000)
    for read in (*READERS, read_tensors, metadata_of):
        with pytest.raises(BadInput, match="claims a header of 90000000 bytes"):
            read(path)
    write_tensors({"x": torch.ones(1)}, {}, path)
    with pytest.raises(BadInput, match="characters are too many"):
        save_metadata_text(path, " " * 20_000_000)


def test_s11_no_file_has_tensors_without_end(tmp_path: Path) -> None:
    path, empty = tmp_path / "x.safetensors", {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(number): empty for number in range(limits.TENSORS + 1)}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    for read in (read_embeddings, read_network, open_tensors):
        with pytest.raises(BadInput, match=f"{limits.TENSORS + 1} tensors; at most"):
            read(path)  # type: ignore[operator]


def test_s11_vectors_are_few_narrow_and_finite(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for tensor, said in (
        (torch.ones(76, 768), "expected 1 to 75 vectors"),
        (torch.ones(1, 4097), "at most 4096 numbers"),
        (torch.full((1, 768), torch.nan), "not finite"),
        (torch.ones(1, 768, dtype=torch.int64), "expected floating point numbers"),
    ):
        write_tensors({"emb_params": tensor}, {}, path)
        with pytest.raises(BadInput, match=said):
            read_embeddings(path)


@pytest.mark.parametrize("told", ["<img src=x onerror=alert(1)>", "sd_v9\" onclick='x'", "x" * 200, "a&b"])
def test_s11_what_a_file_says_of_itself_is_no_html(told: str) -> None:
    """The WebUI puts a card's search terms into its page as they are."""
    assert base_family({"modelspec.architecture": told}) == UNKNOWN
    assert base_family({"ss_base_model_version": "Kolors 1.0"}) == "Kolors 1.0"


def test_s11_a_files_name_is_no_html(tmp_path: Path) -> None:
    for name in ('<img src=x onerror="x">.safetensors', 'a".safetensors', "good.safetensors"):
        write_tensors({"x": torch.ones(1)}, {}, tmp_path / name)
    assert list(NetworkFolders([tmp_path]).files()) == ["good"]


def test_s11_the_pages_script_makes_no_html_of_text() -> None:
    """What the server's functions for HTML escape is tested in tests/ui/test_view.py."""
    for script in (ROOT / "javascript").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text
        )


# 12, 13: pictures


def png(width: int, height: int, pixels: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_s13_a_picture_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(png(50_000, 50_000, zlib.compress(bytes(10_000))))
    for read in (open_image, read_head):
        with pytest.raises(BadInput, match=r"cannot be read|50000 x 50000 pixels"):
            read(path)
    path.write_bytes(png(8192, 4097, zlib.compress(bytes(10_000))))
    with pytest.raises(BadInput, match=r"8192 x 4097 pixels, at most 33,554,432 are read"):
        open_image(path)


def test_s13_a_hosts_higher_limit_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "cat.png"
    path.write_bytes(png(65_535, 65_535, b""))
    with pytest.raises(BadInput, match="65535 x 65535 pixels"):
        open_image(path)


def test_s13_large_photos_are_read_smaller(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    Image.new("RGB", (8000, 6000), "red").save(path)
    assert read_head(path).size == open_image(path).size == (4000, 3000) and limits.PIXELS < 8000 * 6000


def test_s13_few_kinds_of_pictures_are_read_and_none_is_shown() -> None:
    """Each kind is a parser that can be attacked; Pillow's own calculator and viewer have been."""
    opened = [call for path in SOURCES for name, call in calls(path) if name.endswith("Image.open")]
    assert opened and all("formats" in {keyword.arg for keyword in call.keywords} for call in opened)
    assert called(r".*(ImageMath|ImageCms|ImageShow).*|.*\.show") == []
    assert not any("MAX_IMAGE_PIXELS" in path.read_text(encoding="utf-8") for path in SOURCES)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO", "PDF", "EPS"])
def test_s13_other_pictures_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cat.png"
    Image.new("RGB", (8, 8)).save(path, format=kind)
    with pytest.raises(BadInput, match="cannot be read as a PNG, JPEG, WEBP or BMP image"):
        open_image(path)


# 14: templates, data sets


@pytest.mark.parametrize(
    "place",
    ["../../home", "pictures/../../x", "\\\\\\\\host\\\\share", "//host/share", "~nobody-of-that-name/x"],
)
def test_s14_a_strangers_toml_leads_nowhere(tmp_path: Path, place: str) -> None:
    path = tmp_path / "data.toml"
    path.write_text(f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{place}"\n', encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"data\.toml, \[\[datasets\.subsets\]\]: image_dir: .*(leads|lies|cannot)"
    ):
        read_dataset_config(PictureSettings(dataset_config=str(path)))


def test_s14_a_file_is_read_for_its_content(tmp_path: Path) -> None:
    path = tmp_path / "data.toml"
    for text in ("{" * 50_000, "[" * 50_000, "a=" + "[" * 50_000, '{"a":' * 50_000):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match="cannot be read"):
            read_dataset_config(PictureSettings(dataset_config=str(path)))
    path.write_text(" " * (2 << 20), encoding="utf-8")
    with pytest.raises(BadInput, match="at most 1048576 are read"):
        read_template(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..\\secret", "style/../../secret", ""])
def test_s14_a_templates_name_is_looked_up(tmp_path: Path, name: str) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "secret.txt").write_text("[name]", encoding="utf-8")
    with pytest.raises(BadInput, match="There is no template"):
        find_template(name, [tmp_path / "templates"])


def test_every_rule_is_stated_with_tests_that_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for number in range(1, 15):
        (row,) = re.findall(rf"^\| {number} \|.*", text, re.MULTILINE)
        named = re.findall(r"`(tests/[\w/]+\.py)`(?: \(`?(\w+)`?\))?", row)
        assert named, row
        for file, prefix in named:
            assert re.search(rf"def test_{prefix}" if prefix else r"def test_", (ROOT / file).read_text()), (
                row
            )
