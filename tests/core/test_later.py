"""What is imported with its first call."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import lib_ti
from lib_ti.core.later import Later


def all_named() -> Iterator[tuple[str, Later]]:
    """Every ``Later`` of the package, in a module's names and in the records that they are fields of."""
    for found in pkgutil.walk_packages(lib_ti.__path__, "lib_ti."):
        if found.name.split(".")[1] in ("core", "methods", "tools", "commands"):
            for value in vars(importlib.import_module(found.name)).values():
                for one in value if isinstance(value, tuple) else (value,):
                    yield from ((found.name, later) for later in _laters(one))


def _laters(value: Any) -> Iterator[Later]:
    fields = vars(value).values() if hasattr(type(value), "__dataclass_fields__") else ()
    yield from (one for one in (value, *fields) if isinstance(one, Later))


def test_every_name_is_there() -> None:
    named = set(all_named())
    assert len(named) > 40
    for where, later in named:
        assert callable(getattr(importlib.import_module(later.module), later.name, None)), (where, later)


def test_a_call_is_the_functions_own() -> None:
    assert Later("lib_ti.core.names", "safe_name")("cat") == "cat"
    with pytest.raises(TypeError, match="safe_name"):
        Later("lib_ti.core.names", "safe_name")()
