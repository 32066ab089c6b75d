"""Embedding files: every trainer's layout is read, two are written.

What a file is, is decided by its content, never by its name. Sources: AUTOMATIC1111, sd-scripts,
diffusers, HCP-Diffusion, OneTrainer, cog; sai_model_spec 1.0.1.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.names import folded, safe_name
from lib_ti.core.text import as_text
from lib_ti.formats.content import check_names, content_of, not_of_ours
from lib_ti.formats.family import ENCODERS_OF, WIDTHS, Encoder, Family, encoder_sign, family_of
from lib_ti.formats.foreign_embeddings import is_foreign, kind_of, model_of
from lib_ti.formats.pickle_machine import ParameterDict
from lib_ti.formats.pickles import read_torch_pickle, write_torch_pickle
from lib_ti.formats.safetensors_file import read_tensors, write_tensors

log = logging.getLogger(__name__)

IS_NEGATIVE = "modelspec.is_negative_embedding"  # the metadata that says so with "true"

_FAMILIES: Mapping[frozenset[str], Family] = {
    frozenset(encoders): family for family, encoders in ENCODERS_OF.items()
}
ENCODERS: tuple[Encoder, ...] = tuple(WIDTHS)
_ENCODER_OF_WIDTH: Mapping[int, str] = {width: encoder for encoder, width in WIDTHS.items()}
_COG_NAMES = {"text_encoders_0": "clip_l", "text_encoders_1": "clip_g"}
_NAMELESS = {*ENCODERS, *_COG_NAMES, "emb_params", "emp_params", "*"}  # any other key is a trigger
_MOST_WORDS = 1000  # of one file
_A1111_NAMES = {"sd_checkpoint_name": "base_model"}

# Where trainers write the word: diffusers, ours and sai_model_spec, AUTOMATIC1111's .pt.
_TOKEN_KEYS = ("token", "modelspec.trigger_phrase", "trigger", "name")

_BUNDLED = re.compile(r"bundle_emb\.(?P<name>.+?)\.(?P<key>string_to_param\.[^.]+|[^.]+)")


class NotFinite(BadInput):
    """Vectors of an embedding hold NaN or infinity."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors that a trigger stands for. Raises BadInput where they cannot be one.

    ``vectors``: text encoder ("clip_l", "clip_h", "clip_g") -> (n, d), float32, finite; n is the same
    for all. ``metadata``: what is known besides, as text; it travels through ``.safetensors`` files.
    """

    name: str
    vectors: Mapping[str, torch.Tensor]
    step: int | None = None  # optimizer steps behind it
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if frozenset(self.vectors) not in _FAMILIES:
            widths = {encoder: tensor.shape[-1] for encoder, tensor in self.vectors.items() if tensor.ndim}
            encoders = ", ".join(f"{name} ({width} wide)" for name, width in sorted(widths.items()))
            raise BadInput(
                f"{self.name} has vectors for {encoders or 'no text encoder'}; expected clip_l of 768 (SD1), "
                "clip_h of 1024 (SD2), or clip_l of 768 and clip_g of 1280 together (SDXL)."
            )
        for encoder, tensor in self.vectors.items():
            _check_shape(f"{encoder} of {self.name}", tensor)
            if tensor.dtype != torch.float32:
                raise BadInput(
                    f"{encoder} of {self.name} has the type {tensor.dtype}; expected torch.float32."
                )
            if not torch.isfinite(tensor).all():
                raise NotFinite(
                    f"{encoder} of {self.name} holds numbers that are not finite (NaN or infinite)."
                )
        family_of(
            self.name,
            [
                found
                for encoder in ENCODERS
                if encoder in self.vectors
                for found in encoder_sign(encoder, [encoder], self.vectors[encoder].shape[1])
            ],
        )
        if len({len(tensor) for tensor in self.vectors.values()}) > 1:
            counts = {encoder: len(tensor) for encoder, tensor in self.vectors.items()}
            raise BadInput(f"{self.name} has a different number of vectors for each text encoder: {counts}.")

    @property
    def count(self) -> int:
        """n, the tokens of a prompt that the trigger takes."""
        return len(next(iter(self.vectors.values())))

    @property
    def family(self) -> Family:
        return _FAMILIES[frozenset(self.vectors)]

    @property
    def token(self) -> str:
        """The word that it was trained as, by what its file says; "" where that is its name, or not said."""
        told = (self.metadata.get(key, "") for key in _TOKEN_KEYS)
        return next((word for word in told if word not in ("", self.name, f"<{self.name}>")), "")

    @property
    def is_negative(self) -> bool:
        """Whether it says of itself that it is for negative prompts."""
        return self.metadata.get(IS_NEGATIVE) == "true"


def _check_shape(what: str, tensor: torch.Tensor) -> None:
    if (
        tensor.ndim != 2
        or not 1 <= tensor.shape[0] <= limits.VECTORS
        or not 1 <= tensor.shape[1] <= limits.WIDTH
    ):
        raise BadInput(
            f"{what} has the shape {tuple(tensor.shape)}; expected 1 to {limits.VECTORS} vectors of at most "
            f"{limits.WIDTH} numbers."
        )


def read_embedding(path: Path) -> Embedding:
    """The only embedding of ``path``. Raises BadInput, also where it carries several."""
    embeddings = read_embeddings(path)
    if len(embeddings) > 1:
        names = ", ".join(embedding.name for embedding in embeddings)
        raise BadInput(
            f"{path.name} carries {len(embeddings)} embeddings, expected one: {names}; 'embedding "
            "split' makes a file of each."
        )
    return embeddings[0]


def read_embeddings(path: Path) -> list[Embedding]:
    """Every embedding of ``path``: one, or those of several words or of a LoRA's bundle. Raises BadInput."""
    content, metadata = _read_content(path)
    bundles: dict[str, dict[str, object]] = {}
    for key, value in content.items():
        if match := _BUNDLED.fullmatch(key):
            bundles.setdefault(match["name"], {})[match["key"]] = value
    if not bundles:
        return _read_words(path, content, metadata) or [_read_single(path, content, metadata)]
    others = len(content) - sum(map(len, bundles.values()))
    log.info("%s: %d embeddings; %d other tensors are left alone", path.name, len(bundles), others)
    return [
        assemble(path, safe_name(name), tensors, {"bundled_in": path.name, **_said_of(name, metadata)})
        for name, tensors in bundles.items()
    ]


def _said_of(name: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """What the file of a bundle says of the embedding ``name``."""
    start = f"bundle_emb.{name}."
    return {key.removeprefix(start): text for key, text in metadata.items() if key.startswith(start)}


def write_safetensors(embedding: Embedding, path: Path) -> None:
    """SD1 and SD2: the one tensor ``emb_params``; SDXL: ``clip_l`` and ``clip_g``. Raises BadInput.

    A1111 and diffusers (with ``token=``) accept exactly one tensor, whatever its key; ComfyUI takes the
    first. Metadata are the embedding's own: "base_model", "settings", "modelspec.date" and the like are
    set there; what follows from the embedding itself is added.
    """
    tensors = embedding.vectors
    if embedding.family != "sdxl":
        tensors = {"emb_params": next(iter(tensors.values()))}
    write_tensors(tensors, metadata_for(embedding), path)


def write_pt(embedding: Embedding, path: Path) -> None:
    """A1111's own layout, in the older pickle stream: what newer torch writes, A1111 1.10 refuses."""
    write_torch_pickle(pt_content(embedding), path)


def pt_content(embedding: Embedding) -> dict[str, object]:
    """What A1111's own layout holds; of SDXL ``clip_l`` and ``clip_g`` alone, since A1111 takes every entry
    for vectors."""
    if embedding.family == "sdxl":
        return dict(embedding.vectors)
    metadata = embedding.metadata
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": next(iter(embedding.vectors.values()))},
        "name": embedding.metadata.get("token", embedding.name),
        "step": embedding.step,
        "sd_checkpoint": metadata.get("base_model_sha256", "")[:10] or metadata.get("sd_checkpoint"),
        "sd_checkpoint_name": metadata.get("base_model"),
    }


def metadata_for(embedding: Embedding) -> dict[str, str]:
    """What a safetensors file says of the embedding: its own metadata, and what follows from it. Raises
    BadInput for what hosts could not read."""
    v_prediction = embedding.metadata.get("modelspec.prediction_type") == "v"
    model = {
        "sd1": "stable-diffusion-v1",
        "sd2": "stable-diffusion-v2-768-v" if v_prediction else "stable-diffusion-v2-512",
        "sdxl": "stable-diffusion-xl-v1-base",
    }[embedding.family]
    metadata = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{model}/textual-inversion",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": embedding.name,
        **embedding.metadata,
        "family": embedding.family,
        "trigger": embedding.name,
        "modelspec.trigger_phrase": embedding.name,
    }
    for key, value in metadata.items():
        if value.startswith("{"):  # hosts parse such a value
            try:
                json.loads(value)
            except ValueError as error:
                raise BadInput(f"metadata {key} begins with a brace and is not JSON: {error}.") from error
    return metadata if embedding.step is None else {**metadata, "step": str(embedding.step)}


def _read_content(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    """Key -> tensor or plain value, and the metadata of a safetensors file."""
    kind, _ = content_of(path)
    if kind == "safetensors":
        tensors, metadata = read_tensors(path)
        return dict(tensors), metadata
    if kind == "unknown":
        raise not_of_ours(path, "embedding file")
    content = read_torch_pickle(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadInput(
            f"{path.name} holds a {type(content).__name__}; expected the named tensors of an embedding."
        )
    check_names(path, content)
    return content, {}


def _read_single(path: Path, content: Mapping[str, object], metadata: Mapping[str, str]) -> Embedding:
    """A file of one embedding. Its stem is the trigger, as hosts have it, unless diffusers gave one."""
    name = as_text(path.stem)
    content = _join_tokens(path, content)
    token, value = next(iter(content.items()), ("", None))
    if len(content) == 1 and token not in _NAMELESS and isinstance(value, torch.Tensor):
        metadata = {**metadata, "token": token}
        name = _name_of_token(token, name)
        content = _join_second_file(path, content)
    return assemble(path, name, content, metadata)


def _read_words(path: Path, content: Mapping[str, object], metadata: Mapping[str, str]) -> list[Embedding]:
    """Of a file with a tensor for each of several words; none where it is another kind of file."""
    words = _words_of(path, content)
    second = second_file(path)
    others = _words_of(second, _read_content(second)[0]) if words and _lies_beside(path, second) else {}
    plain = {key: value for key, value in content.items() if isinstance(value, int | float)}
    said = {key: text for key, text in metadata.items() if key not in words}
    found: list[Embedding] = []
    for number, (token, tensor) in enumerate(words.items(), 1):
        name = path.stem if token == "*" else _name_of_token(token, f"{path.stem}-{number}")
        if folded(name) in (folded(one.name) for one in found):
            name = f"{name}-{number}"
        own: dict[str, object] = {token: tensor}
        if others.keys() == words.keys():
            own = {"clip_l": tensor, "clip_g": others[token]}
        token_said = {} if token == "*" else {"token": token}
        found.append(assemble(path, name, {**own, **plain}, {**said, **token_said}))
    return found


def _words_of(path: Path, content: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Word -> its tensor, where the file's tensors are vectors of two words or more, all of one width."""
    tensors = _parameters(path, content)
    is_plain = all(
        _is_word(key) and tensor.ndim in (1, 2) and tensor.numel() for key, tensor in tensors.items()
    )
    widths = {tensor.shape[-1:] for tensor in tensors.values()}
    if len(tensors) < 2 or not is_plain or len(widths) > 1 or kind_of(tensors):
        return {}
    if len(tensors) > _MOST_WORDS:
        raise BadInput(f"{path.name} has tensors for {len(tensors)} words; at most {_MOST_WORDS} are read.")
    return tensors


def _is_word(key: str) -> bool:
    """Whether a tensor may be called so for a word: parts of models and of networks have names with dots."""
    is_part = key.endswith("_out") or key.isdigit() or (key in _NAMELESS and key != "*") or is_foreign(key)
    return not is_part and (re.fullmatch(r"<.+>", key) is not None or "." not in key)


def _lies_beside(path: Path, second: Path) -> bool:
    return second != path and second.is_file()


def _name_of_token(token: str, otherwise: str) -> str:
    try:
        return safe_name(token.removeprefix("<").removesuffix(">"))
    except BadInput:
        return otherwise


def _join_tokens(path: Path, content: Mapping[str, object]) -> Mapping[str, object]:
    """A word of several vectors with an entry for each of its tokens, called as sd-scripts does (mychar,
    mychar1, mychar2) or diffusers (mychar, mychar_1, mychar_2), as the one entry that it is."""
    word = min(content, key=len, default="")
    for between in ("", "_"):
        tokens = [word, *(f"{word}{between}{i}" for i in range(1, len(content)))]
        rows = [value for token in tokens if isinstance(value := content.get(token), torch.Tensor)]
        if len(rows) == len(content) > 1:
            log.info("%s: its tokens %s are one word, %s", path.name, " ".join(tokens), word)
            parts = [_rows(path, row) for row in rows]
            if len({part.shape[1] for part in parts}) > 1:
                raise BadInput(f"{path.name} has tokens of several widths; expected vectors of one model.")
            return {word: torch.cat(parts)}
    return content


def second_file(path: Path) -> Path:
    """Where diffusers keeps SDXL's second text encoder; ``path`` itself where its name is not diffusers'."""
    return path.with_name(path.name.replace("learned_embeds", "learned_embeds_2", 1))


def whole_files(paths: Sequence[Path]) -> list[Path]:
    """``paths`` without those that are the second file of another."""
    seconds = {second_file(path) for path in paths if second_file(path) != path}
    return [path for path in paths if path not in seconds]


def _join_second_file(path: Path, content: Mapping[str, object]) -> Mapping[str, object]:
    """diffusers saves SDXL's second text encoder beside the first, with the same token."""
    second = second_file(path)
    if not _lies_beside(path, second):
        return content
    other = _join_tokens(second, _read_content(second)[0])
    if other.keys() != content.keys():
        return content
    return {"clip_l": next(iter(content.values())), "clip_g": next(iter(other.values()))}


def assemble(path: Path, name: str, content: Mapping[str, object], known: Mapping[str, str]) -> Embedding:
    """Every entry of ``content`` becomes vectors or metadata, or is reported as not used."""
    tensors = _parameters(path, content)
    unused = [key for key in tensors if key.endswith("_out") and key.removesuffix("_out") in tensors]
    vectors = _by_encoder(path, {key: tensors[key] for key in tensors if key not in unused}, known)
    if not vectors:
        raise _no_embedding(path, content, tensors)
    metadata = dict(known)
    for key, value in content.items():
        if key in tensors or key in ("string_to_param", "string_to_token"):
            continue
        if isinstance(value, str | int | float):
            metadata[_A1111_NAMES.get(key, key)] = str(value)
        elif value is not None:
            unused.append(key)
    if unused:
        metadata["not_used"] = ", ".join(sorted(unused))
        log.warning("%s: not used: %s", path.name, metadata["not_used"])
    step = metadata.get("step", "")
    if not re.fullmatch(r"\d{1,12}", step):
        return Embedding(name, vectors, None, metadata)
    del metadata["step"]
    return Embedding(name, vectors, int(step), metadata)


def _parameters(path: Path, content: Mapping[str, object]) -> dict[str, torch.Tensor]:
    parameters = content.get("string_to_param", content)
    if isinstance(parameters, ParameterDict):
        parameters = parameters.parameters
    if not isinstance(parameters, Mapping):
        raise BadInput(f"string_to_param of {path.name} holds no named tensors.")
    named = {str(key): value for key, value in parameters.items()}
    return {key: value for key, value in _join_tokens(path, named).items() if isinstance(value, torch.Tensor)}


def _by_encoder(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Text encoder -> (n, d); empty where the tensors are not those of one embedding."""
    named = {_COG_NAMES.get(key, key): tensor for key, tensor in tensors.items()}
    if len(tensors) == 2 and named.keys() == {"clip_l", "clip_g"}:
        return {encoder: _rows(path, named[encoder]) for encoder in ("clip_l", "clip_g")}
    if len(tensors) == 1:
        ((key, tensor),) = tensors.items()
        rows = _rows(path, tensor)
        # The WebUI calls SD2's encoder by the name of SD1's, too.
        is_named = key in ENCODERS and (key, rows.shape[1]) != ("clip_l", WIDTHS["clip_h"])
        return {key if is_named else _encoder_of(rows.shape[1], metadata): rows}
    return {}


def _no_embedding(path: Path, content: Iterable[str], tensors: Iterable[str]) -> BadInput:
    if kind := kind_of(content):
        return BadInput(f"{path.name} is {kind}; an embedding file is needed here.")
    names = [*tensors]
    found = ", ".join(names[:8]) or "none"
    if model := model_of(names):
        return BadInput(
            f"{path.name} is an embedding for {model} ({found}); those for Stable Diffusion 1.x, 2.x and SDXL"
            " are read here."
        )
    return BadInput(
        f"{path.name} is no embedding we know; expected one tensor, or clip_l and clip_g, got: {found}."
    )


def _encoder_of(width: int, metadata: Mapping[str, str]) -> str:
    """The width tells real models apart; metadata, those of other widths such as the built-in one."""
    architecture = metadata.get("modelspec.architecture", "")
    sd2 = metadata.get("family") == "sd2" or architecture.startswith("stable-diffusion-v2")
    return _ENCODER_OF_WIDTH.get(width, "clip_h" if sd2 else "clip_l")


def _rows(path: Path, tensor: torch.Tensor) -> torch.Tensor:
    """(n, d), float32, in memory of its own: the file may be written over."""
    rows = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
    _check_shape(f"The tensor of {path.name}", rows)
    if not rows.is_floating_point():
        raise BadInput(
            f"The tensor of {path.name} has the type {rows.dtype}; expected floating point numbers."
        )
    return rows.to(torch.float32, copy=True).contiguous()
