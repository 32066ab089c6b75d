"""Optimizers by name: torch's own, and those of packages that may or may not be installed."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lib_ti.core import limits
from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.files import parse_json
from lib_ti.core.nearest import perhaps

# Parameter name, or WHOLE for what belongs to all of them -> slot -> tensor or number.
OptimizerState = dict[str, dict[str, Any]]
WHOLE = ""
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_SHARE = "share"  # of a group: its rate as a multiple of the loop's


@dataclass(frozen=True)
class Known:
    """An optimizer with a short name, and what we tell it unless the user does."""

    module: str
    kind: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    moves_by_rate: bool = False  # a step moves an element by at most about the learning rate


# Without decay: vectors have no reason to shrink.
_PLAIN = {"weight_decay": 0.0}

KNOWN = {
    "AdamW": Known("torch.optim", "AdamW", _PLAIN, True),
    "AdamW8bit": Known("bitsandbytes.optim", "AdamW8bit", _PLAIN, True),
    "PagedAdamW": Known("bitsandbytes.optim", "PagedAdamW", _PLAIN, True),
    "PagedAdamW8bit": Known("bitsandbytes.optim", "PagedAdamW8bit", _PLAIN, True),
    "Lion": Known("lion_pytorch", "Lion", _PLAIN, True),
    # Its own schedules would take no notice of the learning rate.
    "Adafactor": Known(
        "transformers.optimization",
        "Adafactor",
        {"relative_step": False, "scale_parameter": False, "warmup_init": False},
    ),
    "Prodigy": Known("prodigyopt", "Prodigy", _PLAIN),
    "AdamWScheduleFree": Known("schedulefree", "AdamWScheduleFree", _PLAIN, True),
}

# A name may come over HTTP: from these modules and no others is anything imported.
MODULES = (
    "bitsandbytes.optim",
    "dadaptation",
    "lion_pytorch",
    "prodigyopt",
    "pytorch_optimizer",
    "schedulefree",
    "torch.optim",
    "transformers.optimization",
)


def known_as(name: str) -> Known | None:
    """The optimizer of that short name, in whatever case."""
    return next((known for short, known in KNOWN.items() if short.lower() == name.lower()), None)


# Above these nothing is learned. By its rate AdamW moves each element of a vector, which is about 0.01, in a
# single step; of an optimizer that does not, the gradient's size decides, or its own estimate.
_MOST_BY_RATE = 1.0
_MOST = 1000.0


def check_rate(optimizer: str, rate: float) -> None:
    """Raises BadInput where ``rate``, the highest of a job, is above any that could teach something."""
    known = known_as(optimizer)
    most = _MOST_BY_RATE if known and known.moves_by_rate else _MOST
    if rate > most:
        raise BadInput(
            f"learning-rate: got {rate:g}, expected at most {most:g} with {optimizer}; usual are 0.001 to "
            "0.02 for an embedding and 1e-5 to 1e-3 for a network."
        )


def is_installed(name: str) -> bool:
    """Whether the package of the optimizer ``name`` is there, and knows it. Raises BadInput for a name that
    is none."""
    known = known_as(name) or _by_path(name)
    try:
        _import(name, known)
    except BadInput:
        return False
    return True


def make_optimizer(
    name: str,
    arguments: str,
    parameters: Mapping[str, torch.Tensor],
    rate: float,
    shares: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer ``name`` (a short one, or package.Class) for ``parameters``, ready to step.

    ``shares``: of each parameter the learning rate, as a multiple of ``rate``; 1 where it is not named.
    Raises BadInput for a name or an argument that it does not know, or a package that is missing.
    """
    known = known_as(name) or _by_path(name)
    given = {**known.defaults, **parse_arguments(arguments)}
    kind = _import(name, known)
    try:
        made = kind(_groups(parameters, rate, shares or {}), lr=rate, **given)
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        told = ", ".join(f"{key}={value!r}" for key, value in given.items()) or "none"
        raise BadInput(
            f"optimizer {name} refuses the learning rate {rate:g} or its arguments ({told}): "
            f"{error or type(error).__name__}; see optimizer-args."
        ) from error
    if averages(made):
        made.train()
    return made


def _groups(
    parameters: Mapping[str, torch.Tensor], rate: float, shares: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameters of one share together, in the order in which the shares first occur."""
    groups: dict[float, list[torch.Tensor]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(shares.get(name, 1.0), []).append(parameter)
    return [{"params": group, "lr": rate * share, _SHARE: share} for share, group in groups.items()]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step, of which every group takes its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[_SHARE]


def parse_arguments(
    text: str, setting: str = "optimizer-args", ours: Sequence[str] = ("lr", "params")
) -> dict[str, Any]:
    """Read ``{"betas": [0.9, 0.99]}`` (JSON) or ``betas=(0.9, 0.99) eps=1e-6``: literals, no code.

    ``setting``: what ``text`` was given as; ``ours``: names that are settled elsewhere.
    Raises BadInput for anything else, and for names that are ours.
    """
    text = text.strip()
    try:
        if len(text) > limits.OPTIMIZER_ARGUMENTS:
            raise ValueError
        if text.startswith("{"):
            found = parse_json(text)
        else:
            pairs = [part.partition("=") for part in re.split(r"[\s,]+(?=[A-Za-z_]\w*\s*=)", text) if part]
            found = {key.strip(): _literal(value) for key, _, value in pairs}
    except ValueError:
        raise BadInput(
            f"{setting}: cannot read {text[: limits.OPTIMIZER_ARGUMENTS]!r}; expected JSON, or pairs "
            "such as betas=(0.9, 0.99) eps=1e-6."
        ) from None
    for key in ours:
        if key in found:
            raise BadInput(f"{setting}: {key} is not an argument here; the rate is learning-rate's.")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def state_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]) -> OptimizerState:
    """A copy of everything the optimizer's next step depends on: tensors and plain numbers.

    Raises JobFailed for one that keeps anything else: its jobs could not be resumed.
    """
    state = {
        name: {slot: _copy(optimizer, slot, value) for slot, value in optimizer.state[p].items()}
        for name, p in parameters.items()
        if p in optimizer.state
    }
    # Some count steps or keep an estimate in the group; what is no number there is configuration.
    state[WHOLE] = {
        _slot_of_group(number, slot): _copy(optimizer, slot, value)
        for number, group in enumerate(optimizer.param_groups)
        for slot, value in group.items()
        if slot not in ("lr", _SHARE) and isinstance(value, torch.Tensor | bool | int | float)
    }
    return state


def _slot_of_group(number: int, slot: str) -> str:
    """The first group's slots keep their names; as a rule there is no other one."""
    return f"{number}.{slot}" if number else slot


def restore_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor], state: OptimizerState
) -> None:
    """Put back what ``state_of`` gave. Not by load_state_dict, which casts to the parameter's dtype."""
    first = optimizer.param_groups[0]
    # Averages are kept beside the parameter; step counts on the CPU, unless the device takes the step.
    counts_move = bool(first.get("capturable") or first.get("fused"))
    for name, parameter in parameters.items():
        optimizer.state.pop(parameter, None)
        if name in state:
            optimizer.state[parameter] = {
                slot: v.to(parameter.device, copy=True)
                if torch.is_tensor(v) and (v.dim() or counts_move)
                else _plain_copy(v)
                for slot, v in state[name].items()
            }
    for key, value in state.get(WHOLE, {}).items():
        number, _, slot = key.rpartition(".")
        optimizer.param_groups[int(number or 0)][slot] = _plain_copy(value)


def result_of(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Copies of what training has arrived at: the parameters, or the average of an optimizer that
    keeps one (schedule-free, arXiv 2405.15682, whose parameters are not where it evaluates)."""
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    if not averages(optimizer):
        return kept
    averaging: Any = optimizer
    averaging.eval()
    averaged = {name: p.detach().clone() for name, p in parameters.items()}
    averaging.train()
    # The way back is arithmetic too, and would not give the same bits.
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])
    return averaged


def _by_path(name: str) -> Known:
    module, _, kind = name.rpartition(".")
    if module in MODULES and kind.isidentifier() and not kind.startswith("_"):
        return Known(module, kind)
    raise BadInput(
        f"optimizer: got {name!r}, expected one of {', '.join(KNOWN)}, or a class by its full name, "
        f"such as torch.optim.RAdam, from one of {', '.join(MODULES)}{perhaps(name, KNOWN)}."
    )


def _import(name: str, known: Known) -> Any:
    package = known.module.partition(".")[0]
    try:
        kind = getattr(importlib.import_module(known.module), known.kind, None)
    except (ImportError, OSError, RuntimeError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        why = "is not installed" if missing else f"cannot be imported ({error})"
        raise BadInput(
            f"optimizer {name} needs the package {package.replace('_', '-')}, which {why}; "
            "install it, or choose AdamW."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise BadInput(f"optimizer {name}: {known.module} has no optimizer {known.kind}.")
    if kind is torch.optim.LBFGS or kind is torch.optim.SparseAdam:
        raise BadInput(f"optimizer {name} does not fit one dense gradient a step; choose another.")
    return kind


def averages(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it evaluates at another place than it learns at, as schedule-free ones do."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


def _literal(text: str) -> Any:
    """A number, a word, a text in quotes, or a row of them, in brackets or not. Raises ValueError."""
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 1 and text[0] in "'\"" and text.find(text[0], 1) == len(text) - 1:
        return text[1:-1]
    bracketed = text[:1] + text[-1:] in ("()", "[]")
    if bracketed or "," in text:
        inside = (text[1:-1] if bracketed else text).strip().removesuffix(",")
        if set(inside) & set("()[]"):
            raise ValueError("brackets in brackets")
        row = [_literal(part) for part in inside.split(",")] if inside else []
        return row if text[0] == "[" else tuple(row)
    return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else float(text)


def _plain_copy(value: Any) -> Any:
    return value.clone() if torch.is_tensor(value) else value


def _copy(optimizer: torch.optim.Optimizer, slot: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor | bool | int | float | str | None):
        return _plain_copy(value)
    raise JobFailed(
        f"{type(optimizer).__name__} keeps a {type(value).__name__} ({slot}) that cannot be saved, so the "
        "job could not be resumed; choose another optimizer."
    )
