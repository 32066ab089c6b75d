from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.networks.blocks import block_weights


@pytest.mark.parametrize(("count", "family"), [(25, "sd1"), (25, "sd2"), (23, "sdxl")])
def test_sd_scripts_lists_are_taken_as_they_are(count, family):
    weights = block_weights(range(count), family)
    assert weights.blocks == tuple(range(count)) and weights.of(None) == 1
    assert weights.of(7) == 7


def test_a_list_or_a_preset_of_a_prompt_is_one_too():
    """The numbers of the list are their own places: BASE 0, IN00 1, ..."""
    weights = block_weights(range(26), "sd1")
    assert weights.of(None) == 0 and weights.blocks == tuple(range(1, 26))
    assert block_weights("OUTALL", "sd2") == block_weights([1.0] + [0.0] * 13 + [1.0] * 12, "sd2")


@pytest.mark.parametrize(("count", "family"), [(23, "sd1"), (25, "sdxl"), (17, "sdxl")])
def test_another_familys_length_is_refused(count, family):
    with pytest.raises(BadInput, match=f"{count} numbers"):
        block_weights([1.0] * count, family)
