"""What the tools for network files have in common: where they write, in which precision, computed where."""

from __future__ import annotations

from pathlib import Path

import torch

from lib_ti.core.errors import BadInput, Interrupted
from lib_ti.core.files import refuse_existing
from lib_ti.core.names import named_file, new_path
from lib_ti.core.precision import DTYPES
from lib_ti.formats.suffixes import CHECKPOINTS
from lib_ti.networks.tools.combine import Watch
from lib_ti.tools.tool import Context


def free_file(name: str, overwrite: bool) -> Path:
    """Where the new file will be. Raises BadInput where its ending says no format, or something is there."""
    path = named_file(Path(name), CHECKPOINTS)
    path = new_path(path.parent, path.name)
    refuse_existing([path], overwrite)
    return path


def dtype_of(save_precision: str) -> torch.dtype | None:
    """None: as in what is read."""
    return DTYPES.get(save_precision)


def device_of(name: str) -> torch.device:
    """Raises BadInput where this computer has no such device."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error


def watched(context: Context) -> Watch:
    """Told how far it is, raises Interrupted where somebody stops it; new files are written last, or not."""

    def watch(done: int, of: int) -> None:
        if context.stopped():
            raise Interrupted("stopped; nothing was written.")
        context.progress(done, of)

    return watch


def clamped_note(clamp: float, exact: str) -> tuple[str, ...]:
    """What is said of a file whose numbers were cut; ``exact``: what gives the whole ones."""
    if clamp >= 1:
        return ()
    told = f"The numbers of the new file are cut at the quantile {clamp:g} of them all, as sd-scripts does"
    return (f"{told}, so it misses more than its rank asks for: {exact}.",)
