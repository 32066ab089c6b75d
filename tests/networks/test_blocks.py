from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.networks.blocks import block_weights


def test_sd_scripts_lists_are_taken_as_they_are():
    assert block_weights(range(25), "sd1").blocks == tuple(range(25))
    assert block_weights(range(23), "sdxl").blocks == tuple(range(23))
    assert block_weights(range(23), "sdxl").of(None) == 1


def test_the_lists_with_a_base():
    """The numbers of the lists are their own places: BASE 0, IN00 1, ..."""
    full = block_weights(range(26), "sd2")
    assert full.of(None) == 0 and full.blocks == tuple(range(1, 26))
    short = block_weights(range(1, 18), "sd1")
    assert short.of(None) == 1
    assert [short.of(block) for block in (1, 2, 4, 5, 7, 8)] == [2, 3, 4, 5, 6, 7]
    assert short.of(12) == 8 and [short.of(block) for block in range(16, 25)] == [*range(9, 18)]
    assert [short.of(block) for block in (0, 3, 6, 9, 10, 11, 13, 14, 15)] == [0] * 9


def test_the_lists_of_sdxl():
    full = block_weights(range(1, 21), "sdxl")
    assert full.blocks == (1, *range(2, 11), 11, 11, 11, *range(12, 21), 1)
    short = block_weights(range(1, 13), "sdxl")
    assert [short.of(block) for block in (5, 6, 8, 9)] == [2, 3, 4, 5]
    assert [short.of(block) for block in (10, 11, 12)] == [6, 6, 6]
    assert [short.of(block) for block in range(13, 19)] == [*range(7, 13)]
    assert short.of(None) == short.of(0) == short.of(22) == 1 and short.of(4) == short.of(21) == 0


@pytest.mark.parametrize(
    ("count", "family", "known"), [(23, "sd1", "17, 25, 26"), (25, "sdxl", "12, 20, 23")]
)
def test_another_length_is_refused(count, family, known):
    with pytest.raises(BadInput, match=known):
        block_weights([1.0] * count, family)
