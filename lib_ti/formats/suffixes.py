"""The endings of files, as a WebUI's folders have them."""

from __future__ import annotations

EMBEDDINGS = frozenset({".safetensors", ".pt", ".bin"})
NETWORKS = frozenset({".safetensors", ".pt", ".ckpt"})
PICKLED_CHECKPOINTS = (".ckpt", ".pt", ".pth")
CHECKPOINTS = (".safetensors", *PICKLED_CHECKPOINTS)
