"""What a computation needs, foretold from two small runs of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lib_ti.core.memory import Allocation, extrapolated_peak, peak, record

CPU = torch.device("cpu")


def test_the_peak_is_of_what_lives_at_once() -> None:
    made = [Allocation(10, end=2), Allocation(20), Allocation(5, end=3), Allocation(7)]
    assert peak(made, [10, 20, 5, 7]) == 30
    assert peak(made, [10, 2, 50, 7]) == 52
    assert peak([], []) == 0


def test_views_and_changes_in_place_are_no_new_memory_and_the_dead_are_seen() -> None:
    def run() -> torch.Tensor:
        first = torch.zeros(1000)  # 4000 bytes
        second = first.view(10, 100).t().add_(1) + 1  # 4000 more
        del first
        return second * 2  # in the place of the first

    assert record(run, CPU).peak == 8000


class Net(nn.Module):
    """Convolution, attention whose scores are kept, text; activations that grow with area to 0, 1 and 2."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.text = nn.Linear(300, 16)
        self.requires_grad_(False)

    def attend(self, rows: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        rows = rows + (rows @ rows.transpose(1, 2)).softmax(-1) @ rows
        return rows + (rows @ heard.T).softmax(-1) @ heard

    def step(self, side: int, text: torch.Tensor, recompute: bool) -> None:
        hidden = self.first(torch.zeros(2, 4, side, side)).flatten(2).transpose(1, 2)
        heard = self.text(text).tanh()
        for _ in range(3):
            if recompute:
                hidden = checkpoint(self.attend, hidden, heard, use_reentrant=False)
            else:
                hidden = self.attend(hidden, heard)
        noise = self.last(hidden.transpose(1, 2).unflatten(2, (side, side)))
        torch.autograd.grad(noise.square().mean(), text)


@pytest.mark.parametrize("recompute", [False, True])
def test_two_small_runs_foretell_a_large_one(recompute: bool) -> None:
    net, text = Net(), torch.randn(77, 300, requires_grad=True)
    small, large, whole = (
        record(lambda side=side: net.step(side, text, recompute), CPU)  # type: ignore[misc]
        for side in (8, 12, 40)
    )
    foretold = extrapolated_peak(small, large, (12 / 8) ** 2, (40 / 8) ** 2)
    assert foretold == pytest.approx(whole.peak, rel=1e-6)
    assert whole.widest == 16 * 4 * 9 * 4
    assert text.grad is None


def test_runs_that_do_different_things_foretell_nothing() -> None:
    one = record(lambda: torch.zeros(4) + 1, CPU)
    other = record(lambda: torch.zeros(9) + 1 + 1, CPU)
    assert extrapolated_peak(one, other, 2.25, 9) is None
