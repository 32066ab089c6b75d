"""What a file can make the machine do: build what torch's files hold, and nothing else."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch

from lib_ti.core import limits
from lib_ti.formats.pickle_machine import (
    Machine,
    Placeholder,
    Refused,
    Unknown,
)

ELEMENTS = torch.arange(12.0)


class _Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class _Stored:
    """Pickles as a reference to a storage."""


def _program(value: object, protocol: int = 2) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            if isinstance(value, _Stored):
                return ("storage", torch.FloatStorage, "0", "cuda:0", len(ELEMENTS))
            return None

    stream = io.BytesIO()
    Pickler(stream, protocol=protocol).dump(value)
    return stream.getvalue()


def _run(program: bytes, unknown: Unknown = "refuse") -> object:
    return Machine(lambda key, dtype, count: ELEMENTS, unknown, 1 << 10).run(io.BytesIO(program))


def _tensor(offset: object, shape: object, stride: object, storage: object = None) -> _Call:
    arguments = (storage or _Stored(), offset, shape, stride, False, OrderedDict())
    return _Call(torch._utils._rebuild_tensor_v2, *arguments)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_values_come_back(protocol: int) -> None:
    shared = ["x", 1, -7, 2**40, 1.5, None, True, False, ()]
    value = {
        "a": shared,
        "b": (shared, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        3: {},
        "one": [5],
        "é": {"k": "v"},
    }
    result = _run(_program(value, protocol))
    assert result == value
    assert result["a"] is result["b"][0]  # type: ignore[index]


def test_bytes_come_back() -> None:
    assert _run(_program([b"short", b"long" * 100], protocol=3)) == [b"short", b"long" * 100]


def test_ordered_dicts_become_dicts() -> None:
    assert _run(_program(OrderedDict(a=1, b=2))) == {"a": 1, "b": 2}


def test_tensor_is_a_view_of_its_storage() -> None:
    tensor = _run(_program(_tensor(1, (2, 3), (1, 4))))
    assert torch.equal(tensor, ELEMENTS.as_strided((2, 3), (1, 4), 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (12, (1,), (1,)),
        (0, (13,), (1,)),
        (1, (3, 4), (4, 1)),
        (0, (2, 2), (11, 1)),
        (-1, (2,), (1,)),
        (11, (2,), (-1,)),
        (0, (-1, -1), (1, 1)),
        (0, (1 << 40,), (0,)),
        (0, (1,), (1 << 70,)),
        (0, (2, 2), (1,)),
        (0.0, (2,), (1,)),
        (0, (2.0,), (1,)),
        (0, ("2",), (1,)),
    ],
)
def test_tensor_cannot_leave_its_storage(offset: object, shape: object, stride: object) -> None:
    with pytest.raises(Refused, match=r"reaches out|the shape"):
        _run(_program(_tensor(offset, shape, stride)))


def test_a_tensor_is_no_storage() -> None:
    with pytest.raises(Refused, match="unusual kind"):
        _run(_program(_tensor(0, (1,), (1,), storage=_tensor(0, (1,), (1,)))))


@pytest.mark.parametrize("function", [os.system, eval, getattr, torch.load, torch.nn.Linear])
def test_unknown_global_is_named_and_refused(function: Callable[..., object]) -> None:
    with pytest.raises(Refused, match=rf"\.{function.__name__}, and only tensors"):
        _run(_program(_Call(function, "1")))


def test_unknown_global_can_be_left_as_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    result = _run(
        _program({"bad": _Call(os.system, "echo it ran"), "good": _tensor(0, (2,), (1,))}), "ignore"
    )
    assert isinstance(result, dict)
    assert result["bad"].name == f"{os.system.__module__}.system"
    assert result["good"].tolist() == [0, 1]
    assert capfd.readouterr().out == ""


class _Stateful(list[int]):
    """Pickles with items and with a state."""


def test_an_ignored_object_swallows_its_items_and_its_state() -> None:
    value = _Stateful([3])
    value.attribute = {"deep": 1}  # type: ignore[attr-defined]
    result = _run(_program([value, _Stateful, {_Stateful: 1}]), "ignore")
    assert isinstance(result, list)
    assert [type(item) for item in result] == [Placeholder, Placeholder, dict]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02}}R.", "calls something"),
        (b"\x80\x02]K\x01b.", "sets attributes"),
        (b"\x80\x02}K\x01a.", "not a list"),
        (b"\x80\x02]K\x01K\x02s.", "not a dict"),
        (b"\x80\x02}))s.", "a tuple as a key"),
        (b"\x80\x02K\x01Q.", "not a storage"),
        (b"\x80\x02(K\x01ios\nsystem\n.", "instruction INST"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.", "instruction BYTEARRAY8"),
    ],
)
def test_odd_programs_are_refused(program: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _run(program)


def test_a_huge_memo_index_costs_nothing() -> None:
    assert _run(b"\x80\x02Nr\xff\xff\xff\x7f.") is None


def test_program_length_is_limited() -> None:
    with pytest.raises(Refused, match="longer than"):
        _run(_program(["x" * limits.PROGRAM, 1]))


# A list of two lists of two lists ..., 60 deep: as a text, or compared, it has no end.
_ENDLESS = b"\x80\x02]q\x00" + b"](h\x00h\x00eq\x00" * 60


@pytest.mark.parametrize(
    "program",
    [
        _ENDLESS + b"h\x00X\x01\x00\x00\x00x\x93.",  # the module and the name of a global
        _ENDLESS + b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00h\x00h\x00NNtR.",
    ],
    ids=["global", "shape"],
)
def test_s9_what_is_refused_is_not_written_out(program: bytes) -> None:
    with pytest.raises(Refused):
        _run(program)


def test_s9_a_program_ends() -> None:
    with pytest.raises(Refused, match=f"more than {limits.INSTRUCTIONS} instructions"):
        _run(b"\x80\x02" + b"N" * limits.INSTRUCTIONS + b".")
