"""Vectors beside a vocabulary's words."""

from __future__ import annotations

import pytest
import torch

from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.vocabulary import lengths, misfit, nearest_words


def test_lengths_count_the_shorter_words() -> None:
    vocabulary = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    found = lengths(torch.tensor([[0.0, 0, 0, 0], [0, 2.5, 0, 0], [5, 0, 0, 0]]), vocabulary)
    assert (found.norms, found.shares) == ([0.0, 2.5, 5.0], [0.0, 0.5, 1.0])
    assert (found.median, found.longest) == (2.0, 4.0)


def test_a_word_is_nearest_to_itself(host: StandaloneHost) -> None:
    table, words = host.token_vectors("clip_l"), host.words()
    vectors = torch.stack([3 * table[words["red"]], table[words["star"]]])
    (red, star) = nearest_words(vectors, table, words, 3)
    assert [red[0][0], star[0][0]] == ["red", "star"]
    assert red[0][1] == pytest.approx(1, abs=1e-5) and len(red) == 3
    assert red[0][1] >= red[1][1] >= red[2][1]
    assert nearest_words(vectors, table, {}, 3) == [[], []]


def test_a_misfit_is_said_in_words(host: StandaloneHost) -> None:
    width = host.info.text_encoders["clip_l"]
    assert misfit({"clip_l": torch.ones(1, width)}, "sd1", host) == ""
    assert f"768 numbers for clip_l; the model {host.info.name} reads {width}" in misfit(
        {"clip_l": torch.ones(1, 768)}, "sd1", host
    )
    assert "made for SDXL, and the model" in misfit({}, "sdxl", host)
