"""A program for test_imports.py: import modules where no host can be imported, and notice every trace.

First argument: comma-separated packages to refuse; the others: the modules to import, in order. One line
on standard output for each complaint.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import sys
from typing import Any

import numpy as np
import torch
from PIL import Image

for name in ("safetensors.torch", "torch.utils.checkpoint"):
    importlib.import_module(name)


class Refuse:
    """Stands before every other finder."""

    def __init__(self, packages: str) -> None:
        self.packages = packages.split(",")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in self.packages:
            raise ImportError(f"{name} is refused")


def functions() -> dict[str, dict[str, Any]]:
    """All that could be patched: the callables of the packages that the core stands on."""
    packages = {"builtins", "logging", "numpy", "PIL", "safetensors", "torch"}
    owners: dict[str, Any] = {
        name: module for name, module in sys.modules.items() if name.split(".")[0] in packages
    }
    owners |= {"Tensor": torch.Tensor, "Module": torch.nn.Module, "Image": Image.Image}
    return {
        name: {key: value for key, value in vars(owner).items() if callable(value)}
        for name, owner in owners.items()
    }


def state() -> dict[str, Any]:
    """All that could be set: environment, logging, random states, torch's switches."""
    return {
        "environment": dict(os.environ),
        "path": list(sys.path),
        "logging": (list(logging.root.handlers), logging.root.level, logging.root.disabled),
        "python random": random.getstate(),
        "numpy random": np.random.get_state()[1].tolist(),  # noqa: NPY002 (the state that all share)
        "torch random": torch.get_rng_state().tolist(),
        "torch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "hooks": (sys.excepthook, sys.stdout, sys.stderr),
    }


def main() -> None:
    sys.meta_path.insert(0, Refuse(sys.argv[1]))
    functions_before, state_before = functions(), state()
    complaints = []
    for module in sys.argv[2:]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            complaints.append(f"{module}: {error}")
    functions_after, state_after = functions(), state()
    for owner, members in functions_before.items():
        now = functions_after[owner]
        complaints += [
            f"patched: {owner}.{key}" for key, value in members.items() if now.get(key) is not value
        ]
    complaints += [f"changed: {key}" for key, value in state_before.items() if state_after[key] != value]
    print(*complaints, sep="\n", end="")


if __name__ == "__main__":
    main()
