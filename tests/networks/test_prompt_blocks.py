from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Family
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


def test_a_list_is_read_for_the_model() -> None:
    assert parse_blocks(numbered(17)) == Blocks("", tuple(map(float, range(17))))
    weights = parse_blocks(numbered(17)).weights("sd1")
    assert weights.of(None) == 0 and len(weights.blocks) == 25
    assert [weights.of(block) for block in ATTENTION] == [*map(float, range(1, 17))]
    assert parse_blocks(numbered(12)).weights("sdxl").blocks[16:19] == (9, 10, 11)
    assert parse_blocks(numbered(25)).weights("sd2").blocks == tuple(range(25))


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
def test_a_list_for_another_family_is_refused(count: int, family: Family) -> None:
    with pytest.raises(BadInput, match=f"{count} block weights were given; for a model of {family}"):
        parse_blocks(numbered(count)).weights(family)
