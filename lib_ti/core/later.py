"""Functions that are known by name before their module is imported.

What a program offers (its commands, tools and methods, with their settings and help) is told without PyTorch,
which takes seconds to import; what carries it out is imported when it is first called.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Later:
    """The function ``name`` of ``module``, which is imported with the first call.

    ``tests/test_imports.py`` reads the module's name as it reads an import, and that the function is there.
    """

    module: str
    name: str

    def __call__(self, *given: Any, **named: Any) -> Any:
        return getattr(import_module(self.module), self.name)(*given, **named)
