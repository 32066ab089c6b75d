"""Torch pickles, read without unpickling: the zip archive and the older stream of ``torch.save``.

``pickle_machine`` runs the opcodes; this module finds the storages. If that is asked for, tensors are views
of a private memory map of the file: a checkpoint of several gigabytes takes no memory until it is used.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from pickle import Pickler
from typing import IO, Any

import torch

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import checked_size, write_atomically
from lib_ti.formats.content import HEAD, ZIP_MAGIC, what_else
from lib_ti.formats.pickle_machine import (
    STORAGE_DTYPES,
    FindStorage,
    Machine,
    Refused,
    Storage,
    Unknown,
)
from lib_ti.formats.zip_directory import members_of

# The elements of a storage: (file, first byte, dtype, count) -> 1-D.
_Elements = Callable[[mmap.mmap, int, torch.dtype, int], torch.Tensor]

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # first object of the older layout
_PROTOCOL_VERSION = 1001  # second object

# What torch and the standard library raise on bytes that are not what they were taken for.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)
_STORAGE_TYPES = {dtype: name.removeprefix("torch.") for name, dtype in STORAGE_DTYPES.items()}


def read_torch_pickle(path: Path, *, unknown: Unknown = "refuse", mapped: bool = False) -> object:
    """What ``torch.save`` wrote, without running any of it; tensors on the CPU, without gradient.

    ``unknown``: globals other than those of tensors are refused, or left as ``Placeholder``.
    ``mapped``: tensors are views of the file, which saves the memory of large ones; as long as one of them
    lives Windows lets nobody replace the file. Raises BadInput.
    """
    checked_size(path)
    try:
        with path.open("rb") as file:
            if told := what_else(file.read(HEAD)):
                raise BadInput(f"{path.name} is not what torch saved but {told}.")
            # Copy on write: torch wants writable memory, and the file must stay as it is.
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if mapped:
            return _read(mapping, unknown, _view)
        with closing(mapping):
            return _read(mapping, unknown, _copy)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    except Refused as error:
        raise BadInput(f"{path.name} is refused: {error}.") from error
    except _DAMAGE as error:
        raise BadInput(f"{path.name} is damaged, or torch did not write it: {error}.") from error


def write_torch_pickle(content: object, path: Path, later: Iterable[torch.Tensor] = ()) -> None:
    """Plain values and tensors in the older stream layout; the same content gives the same bytes.

    ``later``: in their order, what the meta tensors of ``content`` stand for, taken one by one while the
    file grows. torch.save names the storages of this layout by their addresses; here they are numbered.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            _Pickler(file).dump(_MAGIC_NUMBER)
            _Pickler(file).dump(_PROTOCOL_VERSION)
            sizes = {"short": 2, "int": 4, "long": 4}
            _Pickler(file).dump(
                {"protocol_version": _PROTOCOL_VERSION, "little_endian": True, "type_sizes": sizes}
            )
            pickler = _Pickler(file)
            pickler.dump(content)
            _Pickler(file).dump([str(number) for number in range(len(pickler.storages))])
            others = iter(later)
            for storage in pickler.storages:
                elements = next(others).reshape(-1) if storage.is_meta else storage
                file.write(struct.pack("<q", elements.numel()))
                file.write(elements.view(torch.uint8).numpy().data)

    write_atomically(path, write)


class _Pickler(Pickler):
    """Pickles a tensor as torch does and keeps its elements for the end of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, protocol=2)
        self.fast = True  # no memo: whether two equal strings are one object must not show
        self.storages: list[torch.Tensor] = []

    def persistent_id(self, value: object) -> tuple[object, ...] | None:
        if not isinstance(value, Storage):
            return None
        self.storages.append(value.elements)
        storage_type = getattr(torch, _STORAGE_TYPES[value.elements.dtype])
        return ("storage", storage_type, str(len(self.storages) - 1), "cpu", value.elements.numel(), None)

    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        tensor = value.detach().contiguous()
        if not tensor.is_meta:
            tensor = tensor.cpu()
        view = (0, tuple(tensor.shape), tensor.stride())  # offset, shape, stride
        hooks: OrderedDict[object, object] = OrderedDict()
        return torch._utils._rebuild_tensor_v2, (Storage(tensor.reshape(-1)), *view, False, hooks)


def _read(mapping: mmap.mmap, unknown: Unknown, elements: _Elements) -> object:
    if mapping[:4] == ZIP_MAGIC:
        return _read_zip(mapping, members_of(mapping), unknown, elements)
    return _read_stream(mapping, unknown, elements)


def _read_zip(
    mapping: mmap.mmap, members: Mapping[str, tuple[int, int]], unknown: Unknown, elements: _Elements
) -> object:
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refused(f"it holds {len(roots)} members data.pkl, expected one")
    own = {name.removeprefix(roots[0]): extent for name, extent in members.items()}
    start, size = own.get("byteorder", (0, 0))
    if size and mapping[start : start + size] != b"little":
        raise Refused("its numbers are not little-endian")
    storages = {name.removeprefix("data/"): own[name] for name in own if name.startswith("data/")}
    start, size = own["data.pkl"]
    if size > limits.PROGRAM:
        raise Refused(f"its data.pkl has {size} bytes, at most {limits.PROGRAM} are read")
    machine = Machine(_storage_finder(mapping, storages, elements), unknown, limits.SHARED * len(mapping))
    return machine.run(io.BytesIO(mapping[start : start + size]))


def _read_stream(mapping: mmap.mmap, unknown: Unknown, elements: _Elements) -> object:
    """The layout before torch 1.6: five pickles, then every storage with its length in front."""
    if mapping[:1] != b"\x80" or Machine(_no_storage, "refuse").run(mapping) != _MAGIC_NUMBER:
        raise Refused("it does not begin as torch begins its files")
    version = Machine(_no_storage, "refuse").run(mapping)
    system = Machine(_no_storage, "refuse").run(mapping)
    if (
        version != _PROTOCOL_VERSION
        or not isinstance(system, dict)
        or system.get("little_endian") is not True
    ):
        raise Refused(f"its format is not {_PROTOCOL_VERSION}, little-endian")

    # Where a storage lies depends on the types of those before it: a first run only collects them.
    program = mapping.tell()
    claims: dict[str, tuple[torch.dtype, int]] = {}

    def claim(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        if claims.setdefault(key, (dtype, count)) != (dtype, count):
            raise Refused(f"storage {key:.40} is described in two ways")
        _check_size(key, _size(dtype, count), len(mapping))
        return torch.empty(count, dtype=dtype, device="meta")

    most = limits.SHARED * len(mapping)
    Machine(claim, unknown, most).run(mapping)
    keys = Machine(_no_storage, "refuse").run(mapping)
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or sorted(keys) != sorted(claims)
    ):
        raise Refused("its list of storages does not fit its tensors")
    storages = _stream_storages(mapping, {key: claims[key] for key in keys})
    mapping.seek(program)
    return Machine(_storage_finder(mapping, storages, elements), unknown, most).run(mapping)


def _stream_storages(
    mapping: mmap.mmap, claims: Mapping[str, tuple[torch.dtype, int]]
) -> dict[str, tuple[int, int]]:
    """Key -> first byte and length of each storage, which must fill the file to its last byte."""
    position = mapping.tell()
    storages = {}
    for key, (dtype, count) in claims.items():
        (found,) = struct.unpack_from("<q", mapping, position)
        if found != count:
            raise Refused(f"storage {key:.40} has {found} elements, its tensors expect {count}")
        position += 8
        size = _size(dtype, count)
        _check_size(key, size, len(mapping) - position)
        storages[key] = (position, size)
        position += size
    if position != len(mapping):
        raise Refused(f"{len(mapping) - position} bytes follow its end")
    return storages


def _size(dtype: torch.dtype, count: int) -> int:
    return count * torch.empty(0, dtype=dtype).element_size()


def _check_size(key: str, needed: int, present: int) -> None:
    if not 0 <= needed <= present:
        raise Refused(f"storage {key:.40} claims {needed} bytes, the file has {present}")


def _storage_finder(
    mapping: mmap.mmap, storages: Mapping[str, tuple[int, int]], elements: _Elements
) -> FindStorage:
    """``storages``: key -> first byte and length, both within the file."""
    found: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def find(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        if key not in storages:
            raise Refused(f"storage {key:.40} is missing")
        start, size = storages[key]
        if _size(dtype, count) != size:
            raise Refused(f"storage {key:.40} claims {_size(dtype, count)} bytes, the file has {size}")
        if (key, dtype) not in found:
            found[key, dtype] = elements(mapping, start, dtype, count)
        return found[key, dtype]

    return find


def _view(mapping: mmap.mmap, start: int, dtype: torch.dtype, count: int) -> torch.Tensor:
    if count == 0 or start % _size(dtype, 1):  # a view would be misaligned
        return _copy(mapping, start, dtype, count)
    return torch.frombuffer(mapping, dtype=dtype, count=count, offset=start)


def _copy(mapping: mmap.mmap, start: int, dtype: torch.dtype, count: int) -> torch.Tensor:
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(mapping[start : start + _size(dtype, count)]), dtype=dtype)


def _no_storage(key: str, _dtype: torch.dtype, _count: int) -> torch.Tensor:
    raise Refused(f"storage {key:.40} stands where only plain values belong")
