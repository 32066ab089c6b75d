"""Learning rates of lr schedulers that are named by their class: PyTorch's, transformers', diffusers'.

A scheduler changes a rate from step to step. What it makes of one is found beforehand, with an optimizer
that trains nothing, so that a step's rate depends on the settings and the step alone, and a job that is
resumed goes on with the same bits.
"""

from __future__ import annotations

import importlib
import math
import re
from functools import lru_cache
from typing import Any

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.optimizers import parse_arguments

# A name may come over HTTP: from these modules and no others is anything imported.
MODULES = {
    "torch.optim.lr_scheduler": "torch.optim.lr_scheduler",
    "transformers": "transformers.optimization",
    "transformers.optimization": "transformers.optimization",
    "diffusers.optimization": "diffusers.optimization",
    "pytorch_optimizer": "pytorch_optimizer",
}
_EXAMPLE = "torch.optim.lr_scheduler.CosineAnnealingLR"
_FUNCTION = re.compile(r"get_\w*schedule\w*")  # makes a scheduler; a class is one
_MOMENTUM = 0.9
# What schedulers were seen to raise at arguments that they do not take.
_REFUSALS = (
    TypeError, ValueError, RuntimeError, AssertionError, AttributeError, LookupError, ArithmeticError,
)  # fmt: skip


@lru_cache(maxsize=8)
def rates_of(name: str, arguments: str, rate: float, steps: int) -> tuple[float, ...]:
    """The learning rate of each of ``steps`` that the scheduler ``name`` makes of ``rate``.

    ``arguments``: what it is told beside the optimizer, see ``parse_arguments``.
    Raises BadInput for a name or an argument that is not known, a package that is missing, and for what a
    step's number does not settle.
    """
    given = parse_arguments(arguments, "scheduler-args", ("optimizer",))
    kind = _find(name)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate, momentum=_MOMENTUM)
    group = optimizer.param_groups[0]
    rates = list[float]()
    try:
        scheduler = kind(optimizer, **given)
        if not isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
            raise BadInput(f"scheduler {name} is no lr scheduler; expected a class such as {_EXAMPLE}.")
        for _ in range(steps):
            rates.append(float(group["lr"]))
            if group["momentum"] != _MOMENTUM or group["weight_decay"]:
                raise BadInput(
                    f"scheduler {name} changes the optimizer's momentum too, which is not to be had here; "
                    "add cycle_momentum=False to scheduler-args."
                )
            optimizer.step()
            scheduler.step()
    except _REFUSALS as error:
        told = ", ".join(f"{key}={value!r}" for key, value in given.items()) or "none"
        raise BadInput(
            f"scheduler {name} refuses its arguments ({told}) in a job of {steps} steps: "
            f"{error or type(error).__name__}; see scheduler-args."
        ) from error
    wrong = next((step for step, one in enumerate(rates, 1) if not (math.isfinite(one) and one >= 0)), None)
    if wrong is not None:
        raise BadInput(
            f"scheduler {name} makes step {wrong} a learning rate of {rates[wrong - 1]:g}, expected 0 or "
            "more; see scheduler-args."
        )
    return tuple(rates)


def _find(name: str) -> Any:
    """The class or function that makes the scheduler. Raises BadInput."""
    module, _, kind = name.rpartition(".") if "." in name else ("torch.optim.lr_scheduler", "", name)
    if module not in MODULES or not kind.isidentifier() or kind.startswith("_"):
        raise BadInput(
            f"scheduler: got {name!r}, expected a class by its full name, such as {_EXAMPLE}, from one of "
            f"{', '.join(MODULES)}."
        )
    if kind == "ReduceLROnPlateau":
        raise BadInput(
            f"scheduler {name} waits for losses, and here a step's number settles its rate; take a decay, "
            "and stop-rule plateau to end in time."
        )
    try:
        found = getattr(importlib.import_module(MODULES[module]), kind, None)
    except (ImportError, OSError, RuntimeError) as error:
        package = module.partition(".")[0].replace("_", "-")
        raise BadInput(
            f"scheduler {name} needs the package {package}, which cannot be imported ({error}); install it, "
            "or choose a decay."
        ) from error
    a_class = isinstance(found, type) and issubclass(found, torch.optim.lr_scheduler.LRScheduler)
    if not a_class and not (callable(found) and _FUNCTION.fullmatch(kind)):
        raise BadInput(f"scheduler {name}: {module} has no lr scheduler {kind}; look for its exact name.")
    return found
