from __future__ import annotations

import importlib.util

import pytest
from transformers import CLIPTokenizer

from lib_ti.core.errors import BadInput
from lib_ti.hosts.tokenizer import (
    build_clip_tokenizer,
    clip_words,
    whole_words,
    write_tokenizer_files,
)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_clip_tokenizer()


def test_the_vocabulary_is_that_of_clip(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == 49408
    assert set(vocabulary.values()) == set(range(49408))
    known = {"!": 0, "!</w>": 256, ",</w>": 267, "a</w>": 320, "photo</w>": 1125, "cat</w>": 2368}
    assert {token: vocabulary[token] for token in known} == known
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (49406, 49407, 49407)


def test_whole_words_are_tokens_of_letters_that_end_a_word(tokenizer):
    words = clip_words()
    assert words == whole_words(tokenizer.get_vocab())
    assert words["cat"] == 2368 and "photo" in words
    assert not words.keys() & {"a", "to", "1girl", "!", "caf\u00e9", "photo</w>"}
    assert all(
        tokenizer(word, add_special_tokens=False).input_ids == [words[word]] for word in list(words)[::500]
    )


def test_text_is_encoded_between_the_marks_padded_and_decoded(tokenizer):
    ids = tokenizer("A photo of a Cat", padding="max_length").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368] + [49407] * 71
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a photo of a cat"


@pytest.mark.parametrize("text", ["naive", "日本語", "🦊🦊", "\x00\x7f"])
def test_every_byte_has_a_token(tokenizer, text):
    assert tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False).input_ids


def test_sd2_pads_with_the_exclamation_mark():
    tokenizer = build_clip_tokenizer("!")
    assert len(tokenizer) == 49408
    assert tokenizer("cat", padding="max_length").input_ids == [49406, 2368, 49407] + [0] * 74


@pytest.mark.parametrize("pad_token", ["<|endoftext|>", "!"])
def test_the_written_files_make_the_same_tokenizer(tmp_path, pad_token):
    write_tokenizer_files(tmp_path / "tokenizer", pad_token)
    names = {path.name for path in (tmp_path / "tokenizer").iterdir()}
    assert names == {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}

    loaded = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    built = build_clip_tokenizer(pad_token)
    prompts = ["a photo of x-2000, (blue)", " ".join(["star"] * 100)]
    settings = {"padding": "max_length", "truncation": True}
    assert loaded(prompts, **settings).input_ids == built(prompts, **settings).input_ids
    assert loaded.get_vocab() == built.get_vocab()
    assert loaded.model_max_length == built.model_max_length == 77


def test_a_missing_package_is_named_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="open_clip_torch"):
        write_tokenizer_files(tmp_path)
    assert list(tmp_path.iterdir()) == []
