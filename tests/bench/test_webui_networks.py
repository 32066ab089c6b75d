"""The bench of networks against the WebUI's own measures what it says; its figures are not tested here."""

from __future__ import annotations

import pytest

from lib_ti.bench.webui import find_webui
from lib_ti.bench.webui_networks import TURNS, bench_networks, compare
from lib_ti.core.errors import BadInput


def test_ratios_are_of_rounds_and_leave_out_the_first_call() -> None:
    def round_of(plain: float, builtin: float, ours: float) -> dict[str, dict[str, object]]:
        seconds = {"plain": plain, "builtin": builtin, "ours": ours, "added": ours}
        return {turn: {"seconds": one, "calls": [100.0, one / 4, one / 4]} for turn, one in seconds.items()}

    told = compare([round_of(1, 2, 1), round_of(2, 4, 3), round_of(4, 4, 4)])
    assert told["picture_seconds"] == {"plain": 2, "builtin": 4, "ours": 3, "added": 3}
    assert told["ours_to_builtin"] == {"ratio": 0.75, "quartiles": [0.5, 0.75, 1.0]}
    assert told["step_ours_to_plain"]["ratio"] == told["step_added_to_plain"]["ratio"] == 1.0


@pytest.mark.host
def test_in_a_real_webui() -> None:
    try:
        find_webui()
    except BadInput as reason:
        pytest.skip(str(reason))
    told = bench_networks("tiny", size=64, steps=3, rounds=1, rank=4)
    assert told["picture_seconds"].keys() == TURNS.keys()
    assert all(seconds > 0 for seconds in told["picture_seconds"].values())
