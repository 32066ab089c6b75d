from __future__ import annotations

from itertools import chain

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.hosts.prompts import (
    Chunk,
    Splice,
    Vocabulary,
    chunk_batch,
    count_triggers,
    parse_emphasis,
    split_into_chunks,
    tokenize_triggers,
)
from lib_ti.hosts.tokenizer import build_clip_tokenizer

START, END, COMMA, CAT, DOG = 49406, 49407, 267, 2368, 1929
UP, DOWN = 1.1, 1 / 1.1


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = build_clip_tokenizer()

    def tokenize(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    return Vocabulary(tokenize, START, END, END, COMMA)


def content(chunk: Chunk) -> list[int]:
    """The ids between the start mark and the first end mark."""
    assert len(chunk.token_ids) == len(chunk.weights) == 77
    assert chunk.token_ids[0] == START
    assert chunk.weights[0] == chunk.weights[-1] == 1.0
    return list(chunk.token_ids[1 : chunk.token_ids.index(END)])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a red star", [("a red star", 1.0)]),
        ("a (red) star", [("a ", 1.0), ("red", UP), (" star", 1.0)]),
        ("a [red] star", [("a ", 1.0), ("red", DOWN), (" star", 1.0)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red : +.5 )", [("red ", 0.5)]),
        ("(red:-2)", [("red", -2.0)]),
        ("((red))", [("red", UP * UP)]),
        ("[[red]]", [("red", DOWN * DOWN)]),
        ("((red:1.5) star)", [("red", 1.5 * UP), (" star", UP)]),
        ("([red])", [("red", 1.0)]),
        ("([red)]", [("red", 1.0)]),  # round and square brackets need not nest
        ("(re)(d)", [("red", UP)]),  # equal neighbours are one text
        ("(red:1)star", [("redstar", 1.0)]),
        ("a (red star", [("a ", 1.0), ("red star", UP)]),
        ("((red star", [("red star", UP * UP)]),
        ("[red star", [("red star", DOWN)]),
        ("(red [star", [("red ", UP), ("star", DOWN * UP)]),
        ("red) star]", [("red) star]", 1.0)]),
        ("red:1.3) star", [("red:1.3) star", 1.0)]),
        ("[red:1.3]", [("red:1.3", DOWN)]),
        ("(red:bright)", [("red:bright", UP)]),
        ("(red:1.2.3)", [("red:1.2.3", UP)]),
        ("()[]", []),
        (r"\(red\) \[star\]", [("(red) [star]", 1.0)]),
        (r"(red\))", [("red)", UP)]),
        (r"\\(red)", [("\\", 1.0), ("red", UP)]),
        ("red\\star\\", [("red\\star\\", 1.0)]),
    ],
)
def test_emphasis(prompt, expected):
    (section,) = parse_emphasis(prompt)
    assert [text for text, _ in section] == [text for text, _ in expected]
    assert [weight for _, weight in section] == pytest.approx([weight for _, weight in expected], rel=1e-12)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("cat BREAK dog", [[("cat", 1.0)], [("dog", 1.0)]]),
        ("cat,BREAK\ndog", [[("cat,", 1.0)], [("dog", 1.0)]]),
        ("(cat BREAK dog:1.5) a", [[("cat", 1.5)], [("dog", 1.5), (" a", 1.0)]]),
        ("cat BREAK BREAK dog", [[("cat", 1.0)], [], [("dog", 1.0)]]),
        ("BREAK cat", [[], [("cat", 1.0)]]),
        ("BREAKFAST break outBREAK", [[("BREAKFAST break outBREAK", 1.0)]]),
    ],
)
def test_break_ends_a_section(prompt, expected):
    assert parse_emphasis(prompt) == expected


def test_an_empty_prompt_is_one_chunk(vocabulary):
    assert split_into_chunks("", vocabulary) == [Chunk((START, *[END] * 76), (1.0,) * 77, ())]


def test_the_pad_comes_after_the_first_end_mark(vocabulary):
    sd2 = Vocabulary(vocabulary.tokenize, START, END, 0, COMMA)
    assert split_into_chunks("cat", sd2)[0].token_ids == (START, CAT, END, *[0] * 74)
    assert split_into_chunks("cat " * 75, sd2)[0].token_ids == (START, *[CAT] * 75, END)


def test_weights_stand_at_their_tokens(vocabulary):
    (chunk,) = split_into_chunks("cat (dog cat:1.5) [dog]", vocabulary)
    assert content(chunk) == [CAT, DOG, CAT, DOG]
    assert chunk.weights == (1.0, 1.0, 1.5, 1.5, DOWN, *[1.0] * 72)


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [
        ("cat " * 75, [75]),
        ("cat " * 76, [75, 1]),
        ("cat " * 151, [75, 75, 1]),
        ("cat " * 74 + ", dog", [75, 1]),
        ("cat " * 60 + "," + " dog" * 20, [61, 20]),
        ("cat " * 55 + "," + " dog" * 20, [56, 20]),  # 19 tokens behind the comma move
        ("cat " * 54 + "," + " dog" * 21, [75, 1]),  # 20 would have to: the comma is out of reach
        ("cat " * 60 + "," + " dog" * 4 + "," + " dog" * 12, [66, 12]),  # the last comma counts
        ("cat " * 60 + "," + " dog" * 14, [75]),  # full, and nothing follows
        ("cat " * 60 + "," + " dog" * 14 + ", dog", [75, 2]),  # a comma itself does not push back
        ("cat " * 60 + "," + " dog" * 14 + " BREAK cat", [75, 1]),
    ],
)
def test_a_full_chunk_is_cut_after_a_near_comma(vocabulary, prompt, lengths):
    contents = [content(chunk) for chunk in split_into_chunks(prompt, vocabulary)]
    assert [len(ids) for ids in contents] == lengths
    assert [*chain(*contents)] == vocabulary.tokenize(prompt.replace("BREAK", ""))


def test_weights_move_with_their_tokens(vocabulary):
    first, second = split_into_chunks("cat " * 60 + ", (" + "dog " * 20 + ":2)", vocabulary)
    assert set(first.weights) == {1.0}
    assert second.weights == (1.0, *[2.0] * 20, *[1.0] * 56)


@pytest.mark.parametrize(
    ("prompt", "contents"),
    [
        ("cat BREAK dog", [[CAT], [DOG]]),
        ("cat BREAK", [[CAT]]),
        ("BREAK cat", [[], [CAT]]),
        ("cat BREAK BREAK dog", [[CAT], [], [DOG]]),
        ("BREAK", [[]]),
    ],
)
def test_break_ends_a_chunk(vocabulary, prompt, contents):
    assert [content(chunk) for chunk in split_into_chunks(prompt, vocabulary)] == contents


def test_the_longest_trigger_wins_in_any_order(vocabulary):
    for names in (["x-200", "x-2000"], ["x-2000", "x-200"]):
        triggers = tokenize_triggers(dict.fromkeys(names, 2), vocabulary)
        (chunk,) = split_into_chunks("cat x-2000 dog X-200", vocabulary, triggers)
        assert chunk.splices == (Splice(2, "x-2000"), Splice(5, "x-200"))
        assert content(chunk) == [CAT, 0, 0, DOG, 0, 0]


def test_triggers_are_found_inside_emphasis_and_carry_its_weight(vocabulary):
    triggers = tokenize_triggers({"zorbo": 3}, vocabulary)
    (chunk,) = split_into_chunks("cat (zorbo:0.5) dog", vocabulary, triggers)
    assert chunk.splices == (Splice(2, "zorbo"),)
    assert chunk.weights == (1.0, 1.0, 0.5, 0.5, 0.5, *[1.0] * 72)


def test_an_embedding_at_the_border_moves_whole(vocabulary):
    triggers = tokenize_triggers({"zorbo": 8}, vocabulary)
    fits = split_into_chunks("cat " * 67 + "zorbo", vocabulary, triggers)
    assert [chunk.splices for chunk in fits] == [(Splice(68, "zorbo"),)]
    first, second = split_into_chunks("cat " * 68 + "zorbo dog", vocabulary, triggers)
    assert content(first) == [CAT] * 68
    assert first.splices == ()
    assert second.splices == (Splice(1, "zorbo"),)
    assert content(second) == [0] * 8 + [DOG]


def test_an_embedding_behind_the_comma_moves_with_what_follows_it(vocabulary):
    triggers = tokenize_triggers({"zorbo": 8}, vocabulary)
    first, second = split_into_chunks("cat " * 60 + ", dog zorbo" + " cat" * 10, vocabulary, triggers)
    assert content(first) == [CAT] * 60 + [COMMA]
    assert first.splices == ()
    assert second.splices == (Splice(2, "zorbo"),)
    assert content(second) == [DOG] + [0] * 8 + [CAT] * 10


def test_an_embedding_of_a_whole_chunk(vocabulary):
    triggers = tokenize_triggers({"zorbo": 75}, vocabulary)
    chunks = split_into_chunks("cat zorbo dog", vocabulary, triggers)
    assert [content(chunk) for chunk in chunks] == [[CAT], [0] * 75, [DOG]]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [({"zorbo": 76}, "76 vectors"), ({"zorbo": 0}, "0 vectors"), ({"  ": 1}, "trigger '  '")],
)
def test_triggers_that_no_prompt_could_call_are_refused(vocabulary, vectors, message):
    with pytest.raises(BadInput, match=message):
        tokenize_triggers(vectors, vocabulary)


def test_triggers_are_counted_over_all_chunks(vocabulary):
    triggers = tokenize_triggers({"zorbo": 4, "x-200": 1, "quux": 1}, vocabulary)
    counts = count_triggers("zorbo" + " cat" * 80 + " (ZORBO) BREAK x-200", vocabulary, triggers)
    assert counts == {"zorbo": 2, "x-200": 1, "quux": 0}


def test_a_batch_has_as_many_chunks_for_each_prompt(vocabulary):
    rows = chunk_batch(["cat", "cat BREAK dog BREAK cat", ""], vocabulary)
    assert [[content(chunk) for chunk in row] for row in rows] == [
        [[CAT], [], []],
        [[CAT], [DOG], [CAT]],
        [[]] * 3,
    ]
