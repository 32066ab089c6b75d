"""The part of diffusers that loads embeddings."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_ti.hosts.tokenizer import build_clip_tokenizer


def embedding_pipeline() -> tuple[Any, CLIPTokenizer, CLIPTextModel]:
    """A pipeline, its real tokenizer and its text encoder of width 64. Skips without diffusers."""
    diffusers = pytest.importorskip("diffusers")

    class Pipeline(diffusers.DiffusionPipeline, diffusers.loaders.TextualInversionLoaderMixin):
        def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
            super().__init__()
            self.register_modules(tokenizer=tokenizer, text_encoder=text_encoder)

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1
    )
    tokenizer, encoder = build_clip_tokenizer(), CLIPTextModel(config)
    return Pipeline(tokenizer, encoder), tokenizer, encoder
