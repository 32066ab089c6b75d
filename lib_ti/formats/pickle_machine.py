"""A machine for the pickles of torch: it runs their opcodes, and nothing else can happen.

A global, the class or function that a file asks for, is kept as its name alone and never imported; the
few that tensors need have a builder here. What comes out is made of tensors, numbers, strings, tuples,
lists and dicts.
"""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pickletools import opcodes
from typing import IO, Any, Literal

import torch

from lib_ti.core import limits
from lib_ti.core.text import as_text

STORAGE_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}

Unknown = Literal["refuse", "ignore"]
FindStorage = Callable[[str, torch.dtype, int], torch.Tensor]  # key, dtype, elements -> 1-D


class Refused(ValueError):
    """The file asks for what we do not do; the message continues "FILE is refused: "."""


@dataclass(frozen=True, eq=False)
class Placeholder:
    """Stands for a global of the file, and for whatever that global would have built."""

    name: str  # "module.name"


@dataclass(frozen=True)
class Storage:
    """The elements of a storage, 1-D; apart from tensors, so that neither passes for the other."""

    elements: torch.Tensor


@dataclass(eq=False)
class ParameterDict:
    """Stands for torch.nn.ParameterDict, of which only the parameters are kept."""

    parameters: Any = None


class Machine:
    """Runs the opcodes of protocols 2 to 4 that torch's files consist of."""

    def __init__(self, find_storage: FindStorage, unknown: Unknown, most: int = 0) -> None:
        """``most``: bytes of all tensors together, whose views of one storage count each."""
        self._find_storage = find_storage
        self._unknown = unknown
        self._left = most
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each open mark
        self._memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes] | mmap.mmap) -> object:
        """The value of one pickle; leaves ``stream`` behind its last byte."""
        for name, argument in _instructions(stream):
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self)
            elif name in _ACTIONS_ON_ARGUMENT:
                _ACTIONS_ON_ARGUMENT[name](self, argument)
        return self._stack.pop()

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _pack(self, count: int) -> None:
        items = tuple(reversed([self._stack.pop() for _ in range(count)]))
        self._stack.append(items)

    def _pack_to_mark(self) -> None:
        items = tuple(self._pop_to_mark())
        self._stack.append(items)

    def _append(self) -> None:
        item = self._stack.pop()
        _extend(self._stack[-1], [item])

    def _append_to_mark(self) -> None:
        items = self._pop_to_mark()
        _extend(self._stack[-1], items)

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        _update(self._stack[-1], [(key, value)])

    def _set_items_to_mark(self) -> None:
        items = self._pop_to_mark()
        _update(self._stack[-1], zip(items[::2], items[1::2], strict=True))

    def _global(self, argument: str | None) -> None:
        if argument is None:
            qualified, module = self._stack.pop(), self._stack.pop()
            if not isinstance(module, str) or not isinstance(qualified, str):
                raise Refused("it asks for something that has no name")
        else:
            module, qualified = argument.split(" ")
        name = f"{module}.{qualified}"
        if self._unknown == "refuse" and name not in _KNOWN:
            raise Refused(f"it asks for {name:.80}, and only tensors and plain values are read")
        self._stack.append(Placeholder(name))

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Placeholder):
            raise Refused("it calls something that is not a function")
        builder = _BUILDERS.get(function.name)
        built = builder(*arguments) if builder else function
        if builder is _rebuild_tensor and isinstance(built, torch.Tensor):
            self._left -= built.numel() * built.element_size()
            if self._left < 0:
                raise Refused("its tensors lie over one another, more bytes than the file has")
        self._stack.append(built)

    def _set_state(self) -> None:
        """A module's parameters; other attributes, such as a state dict's ``_metadata``, are left."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, ParameterDict):
            target.parameters = state["_parameters"]
        elif not isinstance(target, dict | Placeholder):
            raise Refused("it sets attributes of a plain value")

    def _refer(self) -> None:
        """A storage; or, in the older layout, the class of a module with its source."""
        match self._stack.pop():
            case ("storage", Placeholder(name=name), str(key), str(), int(count), *view) if (
                name in STORAGE_DTYPES
            ):
                if any(part is not None for part in view):
                    raise Refused(f"storage {key:.40} is a view of another, as in torch before 0.4")
                self._stack.append(Storage(self._find_storage(key, STORAGE_DTYPES[name], count)))
            case ("module", Placeholder() as module, *_):
                self._stack.append(module)
            case _:
                raise Refused("it refers to something that is not a storage")


def _instructions(stream: IO[bytes] | mmap.mmap) -> Iterator[tuple[str, Any]]:
    """Name and argument of each, to the last, behind which ``stream`` is left.

    One that is not known is refused before its argument is read, which may be a number of a million digits.
    Of the file no more is read than the longest program has, whatever length an argument claims.
    """
    start = stream.tell()
    program = stream.read(limits.PROGRAM)
    window = io.BytesIO(program)
    for _ in range(limits.INSTRUCTIONS):
        code = window.read(1)
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None:
            raise _broken_off(program) if not code else Refused(f"its pickle has no instruction {code!r}")
        if opcode.name not in _INSTRUCTIONS:
            raise Refused(f"its pickle uses the instruction {opcode.name}")
        try:
            argument = opcode.arg.reader(window) if opcode.arg else None
        except ValueError as error:
            raise _broken_off(program) from error
        # Of a file's name that was no UTF-8, such as a checkpoint's, pickles keep what no other file can.
        yield opcode.name, as_text(argument) if isinstance(argument, str) else argument
        if opcode.name == "STOP":
            stream.seek(start + window.tell())
            return
    raise Refused(f"its pickle has more than {limits.INSTRUCTIONS} instructions")


def _broken_off(program: bytes) -> Refused:
    if len(program) == limits.PROGRAM:
        return Refused(f"its pickle is longer than {limits.PROGRAM} bytes")
    return Refused("its pickle breaks off, or has an argument that is none")


def _extend(target: object, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Placeholder):
        raise Refused("it appends to something that is not a list")


def _update(target: object, items: Iterable[tuple[Any, Any]]) -> None:
    if isinstance(target, dict):
        target.update({_key(key): value for key, value in items})
    elif not isinstance(target, Placeholder):
        raise Refused("it sets items of something that is not a dict")


def _key(value: object) -> object:
    """A key that is cheap to hash: nested tuples can take for ever."""
    if not isinstance(value, str | int | float | Placeholder | None):
        raise Refused(f"it uses a {type(value).__name__} as a key")
    return value


def _rebuild_tensor(
    storage: object,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    _requires_grad: bool,
    _hooks: object,
    metadata: object = None,
) -> torch.Tensor:
    """A tensor that lies wholly within its storage and has no more elements than that."""
    if not isinstance(storage, Storage) or metadata:
        raise Refused("it holds a tensor of an unusual kind")
    # What is no number is not shown: lists that hold one another many times have no end as a text.
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) != len(stride):
        raise Refused("the shape and the stride of a tensor do not go together")
    integers = (offset, *shape[: limits.AXES], *stride[: limits.AXES])
    if len(shape) > limits.AXES or not all(isinstance(i, int) and 0 <= i < 1 << 63 for i in integers):
        raise Refused("the shape or the stride of a tensor is not made of numbers")
    count = storage.elements.numel()
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if math.prod(max(1, size) for size in shape) >= 1 << 60:  # also where a side is 0: torch counts the steps
        raise Refused(f"a tensor of shape {shape!s:.60} is larger than any")
    if math.prod(shape) > count or (0 not in shape and last >= count):
        raise Refused(f"a tensor of shape {shape!s:.60} reaches out of its storage of {count} elements")
    return storage.elements.as_strided(shape, stride, offset)


def _rebuild_parameter(data: object, _requires_grad: bool, _hooks: object) -> object:
    return data


def _empty_dict() -> dict[object, object]:
    return {}


# Builders take time and memory that do not depend on their arguments: a file can call one on the same
# arguments a million times.
_BUILDERS: Mapping[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.nn.modules.container.ParameterDict": ParameterDict,
    "collections.OrderedDict": _empty_dict,
}
_KNOWN = {
    *_BUILDERS,
    *STORAGE_DTYPES,
    *("__builtin__.set", "builtins.set"),  # in the state of every module; stays a placeholder
}

_LITERALS = {  # the argument is the value
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_IDLE = {"PROTO", "FRAME", "STOP"}
_ACTIONS: Mapping[str, Callable[[Machine], None]] = {
    "MARK": Machine._mark,
    "TUPLE1": lambda machine: machine._pack(1),
    "TUPLE2": lambda machine: machine._pack(2),
    "TUPLE3": lambda machine: machine._pack(3),
    "TUPLE": Machine._pack_to_mark,
    "APPEND": Machine._append,
    "APPENDS": Machine._append_to_mark,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items_to_mark,
    "REDUCE": Machine._call,
    "NEWOBJ": Machine._call,
    "BUILD": Machine._set_state,
    "BINPERSID": Machine._refer,
}
_ACTIONS_ON_ARGUMENT: Mapping[str, Callable[[Machine, Any], None]] = {
    "BINPUT": Machine._memoize,
    "LONG_BINPUT": Machine._memoize,
    "MEMOIZE": Machine._memoize,  # no argument: the next free index
    "BINGET": Machine._recall,
    "LONG_BINGET": Machine._recall,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._global,  # no argument: module and name are on the stack
}
_INSTRUCTIONS = _LITERALS | _CONSTANTS.keys() | _IDLE | _ACTIONS.keys() | _ACTIONS_ON_ARGUMENT.keys()
_OPCODES = {opcode.code: opcode for opcode in opcodes}
