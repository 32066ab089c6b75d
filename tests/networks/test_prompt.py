from __future__ import annotations

from dataclasses import replace

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt import (
    NetworkCall,
    format_tag,
    format_without_weights,
    parse_tag,
    take_calls,
    take_tags,
)
from lib_ti.networks.prompt_blocks import Blocks


@pytest.mark.parametrize(
    ("tag", "call"),
    [
        ("cat", NetworkCall("cat")),
        ("cat:0.8", NetworkCall("cat", 0.8, 0.8)),
        ("cat:-1", NetworkCall("cat", -1, -1)),
        ("cat:0.5:0.8", NetworkCall("cat", unet=0.8, text=0.5)),  # as in the WebUI's own tag
        ("cat:0.8:te=0.5", NetworkCall("cat", unet=0.8, text=0.5)),
        ("te/a cat v1.2:te=0.5:0.8", NetworkCall("te/a cat v1.2", unet=0.8, text=0.5)),
        ("cat:unet=0", NetworkCall("cat", unet=0, text=1)),
        ("cat:1:blocks=outall", NetworkCall("cat", blocks=Blocks("OUTALL"))),
        ("cat:blocks=" + ",".join("1" * 17), NetworkCall("cat", blocks=Blocks("", (1.0,) * 17))),
        ("cat:1:start=0.2:stop=0.8", NetworkCall("cat", start=0.2, stop=0.8)),
        ("cat:1:rank=4:hr=only", NetworkCall("cat", rank=4, hires="only")),
        (" cat : 0.8 : TE = 0.5 ", NetworkCall("cat", unet=0.8, text=0.5)),
    ],
)
def test_a_tag_is_read(tag: str, call: NetworkCall) -> None:
    assert parse_tag(tag) == call


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [
        (":0.8", "names no network"),
        ("cat:much", "the weight is 'much', no number"),
        ("cat:nan", "the weight is 'nan', no number"),
        ("cat:1:2:3", "3 weights, two at most"),
        ("cat:te=", "te is '', no number"),
        ("cat:strat=0.2", "'strat' is not known; perhaps 'start' is meant"),
        ("cat:dyn=4", "'dyn' is not known; choose one of blocks, hr, rank, start, stop, te, unet"),
        ("cat:start=10", "start is 10; it is a share of sampling, from 0 to 1"),
        ("cat:start=0.8:stop=0.2", "start 0.8 lies after stop 0.2"),
        ("cat:rank=0", "rank is '0'"),
        ("cat:rank=4.5", "rank is '4.5'"),
        ("cat:hr=first", "hr is 'first'; choose one of both, no, only"),
        ("cat:blocks=1,2", "blocks: got 2 numbers, expected 17, 25 or 26"),
        ("cat:blocks=OUTAL", "blocks: got 'OUTAL', expected"),
        ("cat:blocks=" + ",".join(["inf"] * 17), "blocks: got 17 numbers"),
    ],
)
def test_a_wrong_tag_is_told_in_a_sentence(tag: str, sentence: str) -> None:
    with pytest.raises(BadInput) as told:
        parse_tag(tag)
    assert str(told.value).startswith(f"<net:{tag}>: ") and sentence in str(told.value)
    assert str(told.value).endswith(".") and not str(told.value).endswith("..")


def test_tags_are_taken_out_of_the_prompt_and_others_stay() -> None:
    prompt = "a <net:one:0.5>cat, <lora:two:1> (a < b:1.2)<net:three>"
    text, calls = take_calls(prompt)
    assert text == "a cat, <lora:two:1> (a < b:1.2)"
    assert calls == [NetworkCall("one", 0.5, 0.5), NetworkCall("three")]
    assert take_tags(prompt, ("net", "lora"))[1] == ["one:0.5", "two:1", "three"]


@pytest.mark.parametrize(
    "call",
    [
        NetworkCall("cat"),
        NetworkCall("a cat", 0.1 + 0.2, -1e-9),
        NetworkCall("cat", 2, 2),
        NetworkCall("cat", 0.5, 1, Blocks("OUTS"), start=0.2, stop=0.8, rank=4, hires="only"),
        NetworkCall("cat", blocks=Blocks("", (0.5, *[1.0] * 16))),
    ],
)
def test_a_tag_that_was_written_is_read_back(call: NetworkCall) -> None:
    assert parse_tag(format_tag(call)) == call
    assert parse_tag(format_without_weights(call)) == replace(call, unet=1.0, text=1.0)
    assert format_without_weights(NetworkCall("cat", 0.5, 1)) == "cat"


def test_when_a_network_acts() -> None:
    shares = [step / 10 for step in range(10)]
    assert [parse_tag("cat:start=0.2:stop=0.5").acts_at(share) for share in shares] == [
        *[False] * 2,
        *[True] * 3,
        *[False] * 5,
    ]
    assert all(parse_tag("cat").acts_at(share) for share in (*shares, 1.0, 1.2))
    passes = {
        tag: [parse_tag(tag).acts_in(hires_pass=hires) for hires in (False, True)]
        for tag in ("cat", "cat:hr=only", "cat:hr=no", "cat:start=1", "cat:0", "cat:0:te=1")
    }
    assert passes == {
        "cat": [True, True],
        "cat:hr=only": [False, True],
        "cat:hr=no": [True, False],
        "cat:start=1": [False, False],
        "cat:0": [False, False],
        "cat:0:te=1": [True, True],
    }
