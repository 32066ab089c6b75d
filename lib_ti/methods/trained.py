"""What a kind of training gives to the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from lib_ti.core.loop import Method
from lib_ti.methods.kind import Writer


class Trained(Method, Protocol):
    """What a kind gives to the loop."""

    def shares(self) -> Mapping[str, float]:
        """Of parameters that do not learn at the job's rate: theirs, as a multiple of it."""

    def attached(self) -> AbstractContextManager[None]:
        """Inside, the host's model answers with what is trained; afterwards it is as it was."""

    def after_step(self) -> None:
        """The optimizer has changed the parameters."""

    def export(self, parameters: Mapping[str, torch.Tensor], step: int, job: str) -> Sequence[Writer]:
        """A writer for each of the job's products, in order: of these parameters after so many steps, for
        the job of this id."""
