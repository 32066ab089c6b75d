"""sd-scripts' options of the model and of the embedding in it."""

from __future__ import annotations

from collections.abc import Mapping

from lib_ti.commands.sd_scripts_entry import (
    Entry,
    becomes,
    missing,
    needless,
    sets,
    switched,
)

MODEL: Mapping[str, Entry] = {
    "pretrained_model_name_or_path": becomes("--model"),
    "v2": needless("the widths of the checkpoint say what it is", switch=True),
    "v_parameterization": switched("--prediction", "v"),
    "clip_skip": becomes("--clip-skip"),
    "max_token_length": Entry(
        choices={length: sets({"--max-token-length": length}) for length in ("75", "150", "225")},
        instead="use 150 or 225, or leave it out for 75",
    ),
    "tokenizer_cache_dir": needless("the tokenizer is built in"),
    "vae": missing(
        "the checkpoint's own is used; bake the other one into it, as the WebUI's checkpoint merger does, or "
        "train in the WebUI, with the VAE that is chosen there"
    ),
}
EMBEDDING: Mapping[str, Entry] = {
    "token_string": becomes("--name"),
    "init_word": Entry(lambda word: {"--init": "text", "--init-text": word}),
    "num_vectors_per_token": becomes("--vectors"),
    "weights": becomes("--weights"),
}
