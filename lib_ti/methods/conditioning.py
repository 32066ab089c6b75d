"""How a job's prompts are read, and what is told of those that are too long."""

from __future__ import annotations

from collections.abc import Sequence

from lib_ti.core.errors import BadInput
from lib_ti.core.train_settings import TrainSettings
from lib_ti.hosts.base import Conditioning, Host

_LENGTHS = (0, 75, 150, 225)


def conditioning_of(settings: TrainSettings) -> Conditioning:
    """What a host is told for a job. Raises BadInput for a length that makes no whole chunks."""
    length = settings.max_token_length
    if length not in _LENGTHS:
        raise BadInput(
            f"max-token-length: got {length}, expected {', '.join(map(str, _LENGTHS[:-1]))} or 225."
        )
    return Conditioning(settings.emphasis, length, settings.size_conditioning == "sd-scripts")


def cut_told(host: Host, prompts: Sequence[str], length: int) -> list[str]:
    """What to say of prompts that are longer than ``length`` tokens."""
    cut = [(places, prompt) for prompt in prompts if (places := host.places_cut(prompt))]
    if not cut:
        return []
    most, longest = max(cut)
    said = f"{len(cut)} of {len(prompts)} prompts are longer than {length} tokens, and cut there; the longest"
    return [f"{said} loses {most} ({longest[:60]!r}): see max-token-length"]
