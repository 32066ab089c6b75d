"""What of a translated line this machine can do: half precision, attention, optimizers in 8 bits."""

from __future__ import annotations

import torch

from lib_ti.commands.sd_scripts_entry import Ours
from lib_ti.core.errors import BadInput
from lib_ti.core.optimizers import is_installed
from lib_ti.core.precision import Precision
from lib_ti.hosts.economy import attention_kernel
from lib_ti.hosts.standalone import best_device

_PLAIN = ("AdamW", "Lion")  # what stands in for an optimizer that keeps 8 bits, or pages


def fitted(ours: Ours, device: str) -> tuple[Ours, str, list[str]]:
    """``ours`` as the device takes it, the device, and what to say of what it does not take.

    ``device``: "" is the best there is, and what is named but not there becomes that.
    """
    said = []
    if device.startswith("cuda") and not torch.cuda.is_available():
        said.append(f"{device}: there is no such device; {best_device().type} trains")
        device = ""
    kind = torch.device(device).type if device else best_device().type
    changed, absent = dict(ours), f"is not to be had on {kind}, or not installed"
    precision, optimizer = ours.get("--precision", "model"), ours.get("--optimizer", "")
    if not _has_precision(precision, kind):
        changed["--precision"] = "model"
        said.append(f"{precision} is not to be had on {kind}: everything is computed in full precision")
    if ours.get("--attention") == "xformers" and not _has_xformers(kind):
        changed["--attention"] = "sdpa"
        said.append(f"xformers {absent}: attention is PyTorch's own, which needs as little memory")
    if _keeps_little(optimizer) and not (kind == "cuda" and is_installed(optimizer)):
        plain = next(name for name in _PLAIN if name in optimizer)
        changed["--optimizer"] = plain
        said.append(f"{optimizer} {absent}: {plain} it is, which takes more memory")
    return changed, device, said


def _keeps_little(optimizer: str) -> bool:
    return "8bit" in optimizer or "Paged" in optimizer


def _has_precision(name: str, kind: str) -> bool:
    if name == "fp16" and kind == "cpu":
        return False  # as accelerate has it: it takes longer there, and saves nothing
    try:
        Precision(name, torch.device(kind))
    except BadInput:
        return False
    return True


def _has_xformers(kind: str) -> bool:
    try:
        attention_kernel("xformers")
    except BadInput:
        return False
    return kind == "cuda"
