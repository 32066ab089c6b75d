from __future__ import annotations

import torch

from lib_ti.hosts.prompts import PLACEHOLDER_ID
from lib_ti.hosts.shown_tokens import shown, token_table
from lib_ti.hosts.standalone import StandaloneHost


def test_vectors_stand_where_the_text_encoder_gets_them(host: StandaloneHost) -> None:
    prompt = "a (photo:1.2) of zqx-cat, red"
    (places,) = token_table([prompt], host.tokenize, {"zqx-cat": 3})[prompt]
    assert places == [
        *map(str, host.tokenize("a photo of")),
        "[zqx-cat 1/3]",
        "[zqx-cat 2/3]",
        "[zqx-cat 3/3]",
        *map(str, host.tokenize(", red")),
    ]
    # The same places as the encoder's: there its input is the live vectors.
    seen = []
    layer = host._texts["clip_l"].model.get_input_embeddings()
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    try:
        host.set_embeddings({"zqx-cat": {"clip_l": torch.zeros(3, 64)}})
        host.encode_prompts([prompt])
    finally:
        handle.remove()
        host.set_embeddings({})
    ids = seen[0][0, 1 : 1 + len(places)].tolist()
    assert [i for i, token in enumerate(ids) if token == PLACEHOLDER_ID] == [3, 4, 5]
    assert [str(token) for token in ids if token != PLACEHOLDER_ID] == [p for p in places if p[0] != "["]


def test_people_are_told_where_and_how_much_room_is_taken(host: StandaloneHost) -> None:
    long = "zqx-cat, " + "red, " * 40
    table = token_table(["a dog", long, ""], host.tokenize, {"zqx-cat": 2})
    lines = shown(table)
    assert lines[0] == "a dog"
    assert (
        lines[1]
        == f"  {' '.join(map(str, host.tokenize('a dog')))}  (2 of 75 places; no vector of the new word)"
    )
    assert lines[3].startswith("  [zqx-cat 1/2] [zqx-cat 2/2] ") and lines[3].endswith(
        "(75 of 75 places; vectors at 1, 2)"
    )
    assert [len(chunk) for chunk in table[long]] == [75, 8]
    assert table[""] == [[]]
