from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt_blocks import PRESETS, Blocks, parse_blocks

# sd-scripts' places of the blocks that have attention: 16 of SD's 25.
ATTENTION = [1, 2, 4, 5, 7, 8, 12, *range(16, 25)]
# What lists of 17 with these names hold in the files that users pass around.
LISTS = {
    "NONE": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "ALL": "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
    "INS": "1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
    "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
    "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
}


def numbered(count: int) -> str:
    return ",".join(map(str, range(count)))


def test_short_lists_name_the_blocks_with_attention() -> None:
    weights = parse_blocks(numbered(17)).weights("sd1")
    assert weights.of(None) == 0 and len(weights.blocks) == 25
    assert [weights.of(block) for block in ATTENTION] == [*map(float, range(1, 17))]
    assert sum(weights.blocks) == sum(range(17))  # nothing elsewhere
    weights = parse_blocks(numbered(12)).weights("sdxl")
    assert weights.blocks == (0, 0, 0, 0, 0, 1, 2, 0, 3, 4, 5, 5, 5, 6, 7, 8, 9, 10, 11, 0, 0, 0, 0)


def test_full_lists_name_every_block() -> None:
    weights = parse_blocks(numbered(26)).weights("sd2")
    assert weights.blocks == tuple(range(1, 26))
    weights = parse_blocks("7," + numbered(20)[2:]).weights("sdxl")
    assert weights.blocks == (7, *range(1, 10), 10, 10, 10, *range(11, 20), 7)
    assert weights.of(None) == 7


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_the_known_lists_where_these_name_a_block(preset: str) -> None:
    ours, known = Blocks(preset).weights("sd1"), parse_blocks(LISTS[preset]).weights("sd1")
    assert [ours.of(block) for block in (None, *ATTENTION)] == [
        known.of(block) for block in (None, *ATTENTION)
    ]


def test_presets_of_sdxl_part_the_network_at_its_depths() -> None:
    ins, ind, outd, outs = (Blocks(name).weights("sdxl").blocks for name in ("INS", "IND", "OUTD", "OUTS"))
    together = [sum(weights) for weights in zip(ins, ind, outd, outs, strict=True)]
    assert together == [4, *[1] * 9, 0, 0, 0, *[1] * 9, 4]


@pytest.mark.parametrize(("count", "family"), [(17, "sdxl"), (26, "sdxl"), (12, "sd1"), (20, "sd2")])
def test_a_list_for_another_family_is_refused(count: int, family: str) -> None:
    fitting = "12 or 20" if family == "sdxl" else "17 or 26"
    with pytest.raises(BadInput, match=f"list of {count} numbers, expected one of {fitting} for this"):
        parse_blocks(numbered(count)).weights(family)
