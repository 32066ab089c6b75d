"""Numbers for blocks: sd-scripts' lists and presets."""

from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.networks.block_numbers import block_weights, filled_up, read_ranks
from lib_ti.networks.names import BLOCKS

# sin(pi/2 * i / 11), as sd-scripts gives them.
SINE = [0, 0.1423, 0.2817, 0.4154, 0.5406, 0.6549, 0.7557, 0.8413, 0.9096, 0.9595, 0.9898, 1]


def test_every_block_has_a_weight_and_what_is_left_out_is_one() -> None:
    down = ",".join(["0.5"] * 4 + ["1.0"] * 4 + ["1.5"] * 4)
    assert block_weights("", "", "", "sd1") == [1.0] * 25
    assert block_weights(down, "2.0", "", "sd1") == [0.5] * 4 + [1.0] * 4 + [1.5] * 4 + [2.0] + [1.0] * 12
    sdxl = block_weights("linear", "1,2,3", "zeros+.5", "sdxl")
    assert (len(sdxl), sdxl[0], sdxl[-1]) == (23, 1.0, 1.0)
    assert sdxl[1:10] == [i / 8 for i in range(9)] and sdxl[10:] == [1, 2, 3, *[0.5] * 9, 1]


def test_presets_are_those_of_sd_scripts() -> None:
    weights = block_weights("sine+.5", "1.5", "cosine+.5", "sd2")
    assert weights[:12] == pytest.approx([value + 0.5 for value in SINE], abs=1e-4)
    assert weights[13:] == pytest.approx([value + 0.5 for value in SINE[::-1]], abs=1e-4)
    assert block_weights("linear", "", "reverse_linear", "sd1")[:12] == [i / 11 for i in range(12)]
    assert block_weights("linear", "", "reverse_linear", "sd1")[13:] == [1 - i / 11 for i in range(12)]


def test_a_weight_up_to_the_threshold_counts_as_none() -> None:
    weights = block_weights("linear", "0.1", "", "sd1", least=0.1)
    assert weights[:3] == [0, 0, 2 / 11] and weights[12] == 0


@pytest.mark.parametrize(
    ("down", "middle", "up"),
    [
        ("0.5", "", ""),
        ("", "sine", ""),
        ("", "1,2", ""),
        ("1e300,1", "", ""),
        ("", "", ",".join("1" * 13)),
        ("wave", "", ""),
        ("sine+", "", ""),
        ("sine+x", "", ""),
        ("sine*2", "", ""),
        (",".join(["-1"] * 12), "", ""),
        (",".join(["nan"] * 12), "", ""),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(down: str, middle: str, up: str) -> None:
    with pytest.raises(BadInput, match=r"(down|mid|up)-lr-weight: got .*, expected"):
        block_weights(down, middle, up, "sd1")


def test_ranks_are_whole_numbers_one_for_each_block() -> None:
    assert read_ranks("block-dims", ",".join(["2"] * 25), "sd1") == [2] * 25 and BLOCKS["sdxl"] == 23
    for text in ("2,4", ",".join(["2.5"] * 25), ",".join(["-2"] * 25)):
        with pytest.raises(BadInput, match="block-dims: got"):
            read_ranks("block-dims", text, "sd1")


def test_short_lists_are_filled_up_and_empty_items_are_none_as_in_sd_scripts() -> None:
    weights = block_weights("0.5,,2", "", "3, ", "sd1")
    assert weights == [0.5, 0, 2, *[1.0] * 9, 1, 3, 0, *[1.0] * 10]
    assert block_weights("", "2", "", "sdxl")[10:13] == [2, 1, 1]
    assert filled_up("0.5,,2", "1", "sine", "sd1") == [
        "down-lr-weight: 3 of 12 numbers are given; the other blocks' weight is 1",
        "down-lr-weight: an empty item counts as 0, so its block is left as it is",
    ]
    assert filled_up("", "", "", "sdxl") == []


def test_a_rank_has_a_limit() -> None:
    for text in (",".join(["1e300"] * 25), ",".join(["1025"] * 25)):
        with pytest.raises(BadInput, match=r"block-dims: got .*, expected 25 numbers of 0 to 1024"):
            read_ranks("block-dims", text, "sd1")
