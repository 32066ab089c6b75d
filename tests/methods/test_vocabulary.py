"""Vectors beside a vocabulary's words."""

from __future__ import annotations

import pytest
import torch

from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.vocabulary import Vocabulary, misfit


def test_lengths_are_told_beside_all_words(host: StandaloneHost) -> None:
    table = host.token_vectors("clip_l")
    norms = table.norm(dim=1)
    ids = norms.argsort()[[0, len(norms) // 4, -1]]
    found = Vocabulary(host).lengths("clip_l", torch.cat([table[ids], 2 * table[ids[2:]]]))
    assert found.norms == pytest.approx([*norms[ids].tolist(), 2 * float(norms.max())])
    assert found.shares == pytest.approx([0, 0.25, 1, 1], abs=1e-3) and found.shares[2] < found.shares[3] == 1
    assert (found.median, found.longest) == (float(norms.median()), float(norms.max()))


def test_a_word_is_nearest_to_itself(host: StandaloneHost) -> None:
    table, words, vocabulary = host.token_vectors("clip_l"), host.words(), Vocabulary(host)
    vectors = torch.stack([3 * table[words["red"]], table[words["star"]]])
    (red, star) = vocabulary.nearest("clip_l", vectors, 3)
    assert [red[0][0], star[0][0]] == ["red", "star"]
    assert red[0][1] == pytest.approx(1, abs=1e-5) and len(red) == 3
    assert red[0][1] >= red[1][1] >= red[2][1]
    assert torch.equal(vocabulary.vectors_of("clip_l", ["star"])[0], table[words["star"]])


def test_names_that_prompts_read_as_words(host: StandaloneHost) -> None:
    vocabulary = Vocabulary(host)
    assert [vocabulary.word_called(name) for name in ("star", "STAR", "zqx-cat", "red star", "")] == [
        "star",
        "star",
        "",
        "",
        "",
    ]


def test_a_misfit_is_said_in_words(host: StandaloneHost) -> None:
    width = host.info.text_encoders["clip_l"]
    assert misfit({"clip_l": torch.ones(1, width)}, "sd1", host) == ""
    assert f"768 numbers for clip_l; the model {host.info.name} reads {width}" in misfit(
        {"clip_l": torch.ones(1, 768)}, "sd1", host
    )
    assert "made for SDXL, and the model" in misfit({}, "sdxl", host)
