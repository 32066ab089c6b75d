"""What the tools make, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Family
from lib_ti.formats.pickles import write_torch_pickle
from lib_ti.formats.suffixes import PICKLED_CHECKPOINTS
from lib_ti.networks.algebra import LowRank, Update
from lib_ti.networks.files import Network, network_metadata, tensors_of, write_network
from lib_ti.networks.tools.combine import is_conv
from lib_ti.networks.tools.describe import alpha_of

# True of the file that they came from alone.
_OF_ANOTHER = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "modelspec.thumbnail")


def save_network(
    path: Path, updates: Mapping[str, Update], dtype: torch.dtype | None, metadata: Mapping[str, str]
) -> None:
    """The updates in ``dtype``; None: each in its own. alpha stays in float32: half of it would be wrong.

    ``.safetensors``, or a torch pickle, which has no place for metadata. Raises BadInput where a number is
    too large for ``dtype``.
    """
    tensors = tensors_of(updates)
    if dtype is not None:
        tensors = {key: _cast(key, tensor, dtype) for key, tensor in tensors.items()}
    if path.suffix.lower() in PICKLED_CHECKPOINTS:
        write_torch_pickle(tensors, path)
    else:
        write_network(path, tensors, metadata)


def _cast(key: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if key.endswith((".alpha", ".on_input")):
        return tensor
    cast = tensor.to(dtype)
    if not torch.isfinite(cast).all():
        raise BadInput(f"{key} does not stay finite in {dtype}; save in bf16 or float.")
    return cast


def precision_of(network: Network) -> torch.dtype:
    """The type of its factors."""
    return next(t.dtype for key, t in tensors_of(network.updates).items() if not key.endswith(".alpha"))


def metadata_of(
    path: Path,
    updates: Mapping[str, Update],
    family: Family | None,
    inherited: Mapping[str, str],
    *,
    comment: str = "",
    merged_from: Sequence[str] = (),
    prediction: Literal["eps", "v"] | None = None,
) -> dict[str, str]:
    """What a file made of others should say: ``inherited`` from them, and what is its own.

    ``comment`` goes before the trainer's own. ``prediction``: of the model; None: as in ``inherited``.
    """
    if prediction is None:
        prediction = "v" if inherited.get("modelspec.prediction_type", "").startswith("v") else "eps"
    convs = [update for update in updates.values() if isinstance(update, LowRank) and is_conv(update)]
    others = [update for update in updates.values() if update not in convs] or convs
    args = {"conv_dim": _only(u.rank for u in convs), "conv_alpha": _only(map(alpha_of, convs))}
    own = network_metadata(
        family or "sd1",
        prediction=prediction,
        dim=_only(update.rank for update in others),
        alpha=_only(map(alpha_of, others)),
        args=args if convs else None,
        title=path.stem,
    )
    if family is None:  # nothing is claimed that is not known
        own = {key: value for key, value in own.items() if key not in _OF_FAMILY}
    if merged_from:
        own["modelspec.merged_from"] = ", ".join(merged_from)
    if comment:
        old = inherited.get("ss_training_comment", "")
        own["ss_training_comment"] = f"{comment}; {old}" if old else comment
    return {**{key: value for key, value in inherited.items() if key not in _OF_ANOTHER}, **own}


_OF_FAMILY = (
    "ss_base_model_version",
    "ss_v2",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.prediction_type",
)


def _only(values: object) -> str:
    """The one value of all, or "Dynamic", as sd-scripts says where they vary."""
    found = set(values)  # type: ignore[call-overload]
    return str(found.pop()) if len(found) == 1 else "Dynamic"
