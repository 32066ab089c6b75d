from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.formats.pickle_machine import STORAGE_DTYPES, ParameterDict, Placeholder
from lib_ti.formats.pickles import read_torch_pickle, write_torch_pickle

both_layouts = pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])


def _save(content: object, path: Path, new: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=new)
    return path


def _read_dict(path: Path, **options: object) -> dict[str, object]:
    content = read_torch_pickle(path, **options)  # type: ignore[arg-type]
    assert isinstance(content, dict)
    return content


class _Harmful:
    """Where this is unpickled, the file ``path`` appears."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"echo ran > {self.path}",)


@both_layouts
@pytest.mark.parametrize("dtype", STORAGE_DTYPES.values(), ids=str)
def test_tensors_of_every_type(tmp_path: Path, new: bool, dtype: torch.dtype) -> None:
    tensors = {
        "matrix": torch.arange(15).reshape(3, 5).to(dtype),
        "transposed": torch.arange(6).reshape(2, 3).to(dtype).t(),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.empty(0, 5, dtype=dtype),
    }
    content = _read_dict(_save(tensors, tmp_path / "x.pt", new))
    assert content.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = content[name]
        assert isinstance(found, torch.Tensor)
        assert found.dtype == dtype
        assert torch.equal(found, tensor)


@both_layouts
def test_parameters_modules_and_plain_values(tmp_path: Path, new: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    saved = {
        "parameter": parameter,
        "state": torch.nn.Linear(2, 2).state_dict(),  # an OrderedDict with the attribute _metadata
        "parameters": torch.nn.ParameterDict({"*": parameter}),
        "plain": [1, 2.5, "text", None, (True, -3)],
    }
    content = _read_dict(_save(saved, tmp_path / "x.pt", new))
    assert torch.equal(content["parameter"], parameter)  # type: ignore[arg-type]
    assert list(content["state"]) == ["weight", "bias"]  # type: ignore[call-overload]
    assert content["plain"] == saved["plain"]
    module = content["parameters"]
    assert isinstance(module, ParameterDict)
    assert torch.equal(module.parameters["*"], parameter)
    assert not module.parameters["*"].requires_grad


@both_layouts
def test_shared_storage_stays_shared(tmp_path: Path, new: bool) -> None:
    whole = torch.arange(8.0)
    content = _read_dict(_save({"whole": whole, "half": whole[4:]}, tmp_path / "x.pt", new))
    content["half"].zero_()  # type: ignore[attr-defined]
    assert content["whole"].tolist() == [0, 1, 2, 3, 0, 0, 0, 0]  # type: ignore[attr-defined]
    assert torch.load(tmp_path / "x.pt")["whole"].tolist() == whole.tolist()  # the file is as it was


def test_zip_tensors_are_views_of_one_map(tmp_path: Path) -> None:
    path = _save({name: torch.rand(1000) for name in "ab"}, tmp_path / "x.pt", True)
    content = read_torch_pickle(path, mapped=True)
    assert isinstance(content, dict)
    data = path.read_bytes()
    offsets = {name: data.index(tensor.numpy().tobytes()) for name, tensor in torch.load(path).items()}
    pointers = {name: tensor.data_ptr() for name, tensor in content.items()}
    assert pointers["b"] - pointers["a"] == offsets["b"] - offsets["a"]


@both_layouts
def test_nothing_in_the_file_is_run(tmp_path: Path, new: bool) -> None:
    marker = tmp_path / "marker"
    path = _save({"t": torch.ones(1), "bad": _Harmful(marker)}, tmp_path / "x.pt", new)
    with pytest.raises(BadInput, match=r"x\.pt is refused: it asks for (posix|nt)\.system"):
        read_torch_pickle(path)
    content = _read_dict(path, unknown="ignore")
    assert isinstance(content["bad"], Placeholder)
    assert content["t"].tolist() == [1]  # type: ignore[attr-defined]
    assert not marker.exists()


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """The members of a good file with one tensor of 1000 numbers."""
    members = _members(_save({"t": torch.zeros(1000)}, tmp_path / "good.pt", True))
    return {name.split("/", 1)[1]: data for name, data in members.items()}


def _refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=message) as caught:
        read_torch_pickle(path)
    assert len(str(caught.value)) < 300


def test_repacked_archive_is_read(tmp_path: Path, members: dict[str, bytes]) -> None:
    """Without the alignment that torch gives, and under another name of the folder."""
    path = tmp_path / "x.pt"
    path.write_bytes(_zip({f"any/{name}": data for name, data in members.items()}))
    assert torch.equal(_read_dict(path)["t"], torch.zeros(1000))  # type: ignore[arg-type]


def test_an_archive_of_more_than_four_gigabytes_is_read(
    tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sizes and places stand where a zip archive keeps longer numbers; here from 100 bytes on."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    data = _zip({f"any/{name}": data for name, data in members.items()})
    assert b"PK\x06\x06" in data
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    assert torch.equal(_read_dict(path)["t"], torch.zeros(1000))  # type: ignore[arg-type]


def test_zip_faults(tmp_path: Path, members: dict[str, bytes]) -> None:
    good = {f"x/{name}": data for name, data in members.items()}
    _refused(tmp_path, _zip(good, zipfile.ZIP_DEFLATED), "compressed")
    _refused(tmp_path, _zip({**good, "x/data/0": bytes(3996)}), "claims 4000 bytes, the file has 3996")
    _refused(
        tmp_path, _zip({name: good[name] for name in good if name != "x/data/0"}), "storage 0 is missing"
    )
    _refused(tmp_path, _zip({**good, "x/byteorder": b"big"}), "little-endian")
    _refused(tmp_path, _zip({**good, "y/data.pkl": good["x/data.pkl"]}), "2 members data.pkl")
    _refused(tmp_path, _zip({"x/data/0": bytes(4000)}), "0 members data.pkl")
    _refused(tmp_path, _zip({**good, "x/data.pkl": bytes(5 << 20)}), "bytes, at most")
    _refused(tmp_path, _zip(good) + _zip(good), "first byte")
    _refused(tmp_path, _zip({}), "torch")


def test_a_stream_followed_by_an_archive_is_refused(tmp_path: Path) -> None:
    """One reader takes the beginning for the file, another the end."""
    stream = _save({"t": torch.zeros(4)}, tmp_path / "stream.pt", False).read_bytes()
    archive = _save({"t": torch.ones(4)}, tmp_path / "zip.pt", True).read_bytes()
    _refused(tmp_path, stream + archive, f"{len(archive)} bytes follow its end")


def test_stream_faults(tmp_path: Path) -> None:
    good = _save({"t": torch.zeros(1000)}, tmp_path / "stream.pt", False).read_bytes()
    length = (1000).to_bytes(8, "little")
    assert good.count(length) == 1
    _refused(
        tmp_path,
        good.replace(length, (2000).to_bytes(8, "little")),
        "has 2000 elements, its tensors expect 1000",
    )
    claim = b"M\xe8\x03"  # BININT2 1000: the storage's size, then the shape
    assert good.count(claim) == 2
    _refused(tmp_path, good.replace(claim, b"J\xff\xff\xff\x7f"), "claims 8589934588 bytes")
    _refused(tmp_path, good.replace(claim, b"J\xff\xff\xff\xff"), "claims -4 bytes")
    _refused(tmp_path, b"", "but empty")
    _refused(tmp_path, b"\x80\x02K\x01.", "does not begin")
    _refused(tmp_path, b"hello, world", "does not begin")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.pt cannot be read"):
        read_torch_pickle(tmp_path / "nowhere.pt")


@both_layouts
def test_every_cut_is_refused(tmp_path: Path, new: bool) -> None:
    data = _save({"t": torch.ones(5)}, tmp_path / "x.pt", new).read_bytes()
    cut = tmp_path / "cut.pt"
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        with pytest.raises(BadInput):
            read_torch_pickle(cut)


@both_layouts
def test_no_damage_gets_past_the_reader(tmp_path: Path, new: bool) -> None:
    """Whatever three bytes are changed, the file is read or refused, and nothing else happens."""
    module = torch.nn.ParameterDict({"*": torch.ones(2, 3)})
    data = _save(
        {"t": torch.ones(5).t(), "m": module, "l": [1, 2.5, "x"]}, tmp_path / "x.pt", new
    ).read_bytes()
    generator = random.Random(0)
    path = tmp_path / "changed.pt"
    refused = 0
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(3):
            changed[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(changed)
        try:
            read_torch_pickle(path)
        except BadInput:
            refused += 1
    assert refused > 40


def test_writing_gives_what_torch_reads(tmp_path: Path) -> None:
    content = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype).t() for dtype in STORAGE_DTYPES.values()}
    write_torch_pickle({**content, "name": "näme", "step": 7, "none": None}, tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert (loaded.pop("name"), loaded.pop("step"), loaded.pop("none")) == ("näme", 7, None)
    assert loaded.keys() == content.keys()
    for name, tensor in content.items():
        assert torch.equal(loaded[name], tensor)
        assert torch.equal(_read_dict(tmp_path / "x.pt")[name], tensor)  # type: ignore[arg-type]


def test_same_content_gives_same_bytes(tmp_path: Path) -> None:
    text = "".join(["na", "me"])  # equal to the constant, and another object
    write_torch_pickle({"a": torch.ones(2), "name": "name", "b": "name"}, tmp_path / "1.pt")
    write_torch_pickle({"a": torch.ones(2), "name": text, "b": "name"}, tmp_path / "2.pt")
    assert (tmp_path / "1.pt").read_bytes() == (tmp_path / "2.pt").read_bytes()
