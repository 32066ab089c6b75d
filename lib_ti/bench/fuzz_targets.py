"""What is fuzzed: every reader of what a stranger may have made, with valid inputs of every writer to grow
from. A new reader is an entry here.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lib_ti.bench.fuzz_colour import has_tags, profiles, read_colours
from lib_ti.bench.fuzz_formats import mutate_card, mutate_png, mutate_safetensors, mutate_stream, mutate_zip
from lib_ti.bench.fuzz_jobs import rows
from lib_ti.bench.fuzz_mutate import Mutate, half_right, mutate_in_place, mutate_text
from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.optimizers import parse_arguments
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.core.schedule import parse_stages
from lib_ti.data.captions import CaptionRules, read_caption, vary_caption
from lib_ti.data.images import FORMATS, open_image, read_head
from lib_ti.data.metadata_file import captions_of
from lib_ti.data.sd_scripts_config import read_dataset_config
from lib_ti.data.sd_scripts_prompts import read_prompts
from lib_ti.data.templates import OUR_TEMPLATES, fill, read_template
from lib_ti.formats.card import Card, read_card, write_card
from lib_ti.formats.embedding import Embedding, read_embeddings, write_pt, write_safetensors
from lib_ti.formats.embedding_layouts import renamed
from lib_ti.formats.pickles import write_torch_pickle
from lib_ti.formats.safetensors_file import write_tensors
from lib_ti.formats.streaming import open_tensors, stream_safetensors
from lib_ti.methods.guidance import parse_guidance
from lib_ti.methods.mixing import Rows, Sources, mixed
from lib_ti.methods.network_args import read_network_args
from lib_ti.networks.block_numbers import block_weights, read_ranks
from lib_ti.networks.files import network_metadata, read_network, write_network
from lib_ti.networks.prompt import take_calls
from lib_ti.networks.prompt_metadata import metadata_shown
from lib_ti.networks.tools.describe import describe

Seeds = Callable[[Path], list[bytes]]


@dataclass(frozen=True)
class Target:
    """``seeds``: valid inputs, for which a folder is lent. ``past``: whether an input gets past what its
    format begins with, so that the reader looks inside; may raise. ``names``: what the file is called, in
    turn; of some the ending says another kind than the content is."""

    name: str
    seeds: Seeds
    mutate: Mutate
    read: Callable[[Path], object]
    past: Callable[[bytes], bool]
    names: tuple[str, ...]


def _written(*writers: Callable[[Path], object]) -> Seeds:
    def seeds(folder: Path) -> list[bytes]:
        path, found = folder / "seed.safetensors", []
        for write in writers:
            write(path)
            found.append(path.read_bytes())
        return found

    return seeds


def _tensors_written(*contents: dict[str, torch.Tensor]) -> list[Callable[[Path], object]]:
    return [partial(write_tensors, tensors, {}) for tensors in contents]


def _embeddings() -> list[Embedding]:
    ones = {name: torch.linspace(-1, 1, 2 * width).reshape(2, width) for name, width in _WIDTHS.items()}
    told = {"base_model": "model", "settings": '{"steps": 100}', "modelspec.date": "2026-11-20"}
    return [
        Embedding("cat", {"clip_l": ones["clip_l"]}, 100, told),
        Embedding("cat", {"clip_h": ones["clip_h"]}),
        Embedding("cat", {"clip_l": ones["clip_l"], "clip_g": ones["clip_g"]}, 0),
    ]


_WIDTHS = {"clip_l": 768, "clip_h": 1024, "clip_g": 1280}


def _embedding_targets() -> Iterator[Target]:
    vector, own = torch.ones(768), _embeddings()
    others = _tensors_written(
        {"<cat>": vector},
        {"cat": vector, "cat1": vector},
        {"bundle_emb.cat.string_to_param.*": vector[None], "lora_unet_x.alpha": torch.tensor(1.0)},
    )
    webui = {"string_to_token": {"*": 265}, "string_to_param": {"*": vector[None]}, "name": "cat", "step": 10}
    module = torch.nn.ParameterDict({"*": torch.nn.Parameter(vector[None])})
    zips = (webui, {**webui, "string_to_param": module}, {"<cat>": vector})
    for kind, seeds, mutate, past in (
        (
            "safetensors",
            _written(*(partial(write_safetensors, one) for one in own), *others),
            mutate_safetensors,
            _has_header,
        ),
        (
            "zip pickle",
            _written(*(partial(torch.save, content) for content in zips)),
            mutate_zip,
            _has_program,
        ),
        ("stream pickle", _written(*(partial(write_pt, one) for one in own)), mutate_stream, _is_stream),
    ):
        names = ("cat.safetensors", "cat.pt", "cat.bin", "learned_embeds.bin")
        yield Target(f"embedding, {kind}", seeds, half_right(mutate), read_embeddings, past, names)


def _networks() -> list[dict[str, torch.Tensor]]:
    layer, up, down = "lora_unet_down_blocks_0_attentions_0_proj_in", torch.ones(8, 2), torch.ones(2, 8)
    lora = {f"{layer}.lora_{name}.weight": tensor for name, tensor in (("up", up), ("down", down))}
    lora[f"{layer}.alpha"] = torch.tensor(1.0)
    loha = {f"{layer}.hada_w{n}_{part}": tensor for n in (1, 2) for part, tensor in (("a", up), ("b", down))}
    peft = "unet.down_blocks.0.attentions.0.proj_in"
    return [
        lora,
        {**lora, f"{layer}.dora_scale": torch.ones(8, 1)},
        {**lora, "bundle_emb.cat.string_to_param.*": torch.ones(1, 768)},
        loha,
        {f"{layer}.lokr_w1": torch.ones(2, 2), f"{layer}.lokr_w2": torch.ones(4, 4)},
        {f"{peft}.lora_A.weight": down, f"{peft}.lora_B.weight": up},
    ]


def _network_targets() -> Iterator[Target]:
    told = network_metadata("sd1", dim=2, alpha=1.0, args={"conv_dim": 4}, title="cat")
    config = {"unet.lora_alpha": 4, "unet.alpha_pattern": {"proj_in": 2}}
    told["lora_adapter_metadata"] = json.dumps(config)
    files = _written(*(partial(_write_network, tensors, told) for tensors in _networks()))
    pickles = _written(*(partial(write_torch_pickle, tensors) for tensors in _networks()))
    inside, names = half_right(mutate_safetensors), ("cat.safetensors", "cat.pt", "cat.ckpt")
    yield Target("network, safetensors", files, inside, _inspect_network, _has_header, names)
    yield Target("network, pickle", pickles, half_right(mutate_stream), _inspect_network, _is_stream, names)
    yield Target("network's metadata", files, inside, metadata_shown, _has_header, names)


def _inspect_network(path: Path) -> None:
    describe(read_network(path))


def _write_network(tensors: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> None:
    write_network(path, tensors, metadata)


def _checkpoint_targets() -> Iterator[Target]:
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4, 3, 3).half(),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77),
        "first_stage_model.decoder.conv_in.bias": torch.ones(8),
    }

    def write(path: Path) -> None:
        stream_safetensors(path, tensors, tensors.__getitem__, {"a": "b"})

    saved, names = {"state_dict": tensors, "epoch": 3}, ("cat.safetensors", "cat.ckpt")
    inside = half_right(mutate_safetensors)
    yield Target("checkpoint, safetensors", _written(write), inside, _read_tensors, _has_header, names)
    zipped, inside = _written(partial(torch.save, saved)), half_right(mutate_zip)
    yield Target("checkpoint, zip pickle", zipped, inside, _read_tensors, _has_program, names)


def _read_tensors(path: Path) -> None:
    file = open_tensors(path)
    for name in file.plan:
        file.read(name)


def _picture_targets() -> Iterator[Target]:
    turned = Image.Exif()
    turned[0x0112] = 6
    exif = {"exif": turned.tobytes()}
    saved: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
        "PNG": (*((mode, {}) for mode in ("L", "RGB", "RGBA", "P", "1", "LA")), ("RGB", exif)),
        "JPEG": (("RGB", {}), ("L", {}), ("RGB", {"progressive": True}), ("RGB", exif)),
        "WEBP": (("RGB", {}), ("RGBA", {"lossless": True}), ("RGB", exif)),
        "BMP": (("RGB", {}), ("P", {}), ("1", {})),
    }
    for kind, ways in saved.items():
        names = (f"cat.{kind.lower()}", "cat.png", "cat.jpg")
        mutate = half_right(mutate_png if kind == "PNG" else mutate_in_place)
        seeds = partial(_drawn, kind, ways)
        yield Target(f"picture, {kind}", seeds, mutate, _read_picture, _is_picture, names)
    inside = half_right(mutate_in_place)
    yield Target("colour profile", profiles, inside, read_colours, has_tags, ("cat.icc",))


def _card_target() -> Iterator[Target]:
    cards = [Card(one) for one in _embeddings()]
    cards.append(Card(cards[0].embedding, renamed(cards[0].embedding, "cat-neg")))
    seeds = _written(*(partial(_write_card, card) for card in cards))
    yield Target("card", seeds, half_right(mutate_card), _read_card, _is_picture, ("cat.png", "cat.jpg"))


def _write_card(card: Card, path: Path) -> None:
    write_card(card, Image.linear_gradient("L").resize((256, 256)).convert("RGB"), path)


def _read_card(path: Path) -> None:
    with path.open("rb") as file:
        read_card(file.read(limits.CARD_FILE + 1), path.name)


def _drawn(kind: str, ways: Sequence[tuple[str, dict[str, Any]]], folder: Path) -> list[bytes]:
    found = []
    for mode, options in ways:
        stream = io.BytesIO()
        picture = Image.linear_gradient("L").resize((48, 32)).convert(mode)
        picture.save(stream, format=kind, **options)
        found.append(stream.getvalue())
    return found


def _read_picture(path: Path) -> None:
    read_head(path)
    open_image(path)


_RULES = CaptionRules(
    wildcards=True, keep_tags=1, keep_separator="|||", shuffle=True, drop_tags=0.5, second_separator=";;;"
)


def _read_caption(path: Path) -> None:
    caption = read_caption(path.with_suffix(".png"), extension=".txt")
    vary_caption(caption, _RULES, torch.Generator().manual_seed(1))


def _read_template(path: Path) -> None:
    for line in read_template(path):
        fill(line, name="cat", filewords="cat cat1 cat2 on a mat", others=("dog",))


def _read_dataset(path: Path) -> object:
    return read_dataset_config(PictureSettings(dataset_config=str(path)))


def _read_metadata(path: Path) -> object:
    return captions_of(path, path.parent, [path.with_name("cat.png")], separator=",", lines=True)


def _read_rate(text: str) -> None:
    parse_stages(text, "learning rate").over(1000).at(1)


def _read_network_args(text: str) -> None:
    for name, value in read_network_args(text.split()).items():
        if name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"):
            read_ranks(name, value, "sd1")
        elif name.endswith("lr_weight"):
            sides = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
            down, middle, up = (value if name == side else "" for side in sides)
            block_weights(down, middle, up, "sd1")


def _read_mix(text: str) -> None:
    """The names it finds are those of one embedding."""
    rows = Rows("cat", {"clip_l": torch.ones(2, 4)})
    try:
        mixed(text, Sources(lambda name: rows, lambda words: rows))
    except (ValueError, ArithmeticError) as error:  # the tool puts them into its sentence
        raise BadInput(str(error)) from error


def _typed(read: Callable[[str], object]) -> Callable[[Path], object]:
    """Of what is typed into a box rather than read from a file."""
    return lambda path: read(path.read_bytes().decode(errors="surrogateescape"))


_TOML = """[general]
caption_extension = ".txt"
keep_tokens = 1
[[datasets]]
resolution = [512, 768]
batch_size = 2
enable_bucket = true
  [[datasets.subsets]]
  image_dir = "pictures"
  num_repeats = 10
  class_tokens = "a cat"
"""
_JSON = '{"datasets": [{"resolution": 512, "subsets": [{"image_dir": "pictures", "num_repeats": 2}]}]}'
_METADATA = '{"cat.png": {"caption": "a cat", "tags": "cat, black"}, "cat": {"tags": "a"}}'
_DATASET_WORDS = (
    *("[[datasets]]\n", "[[datasets.subsets]]\n", "[general]\n", "[", "]", "{", "}", "=", '"', "'''", "#"),
    *('image_dir = "../.."\n', 'image_dir = "/dev"\n', "image_dir = '\\\\server\\share'\n", "a.b.c = 1\n"),
    *("num_repeats = -1\n", "resolution = 1e999\n", "is_reg = true\n", "x = 0x1\n", "1979-05-27", ","),
)
_CAPTIONS = ("a {red|blue} cat, sitting ||| outside, x;;;y", "a cat\n\na dog")
_CAPTION_WORDS = ("{a|b}", "{", "}", "{{", "|", ",", "|||", ";;;", "\n", "a cat", "[name]")
_TEMPLATE_WORDS = ("[name]", "[filewords]", "[name2]", "[", "]", "\n", "cat", "cat cat1 ", "a photo of ")
_RATES = ("0.005", "0.005:100, 1e-3:1000, 1e-4", "0.1:0.2, 0.01:0.5, 0.001")
_RATE_WORDS = ("0.005", ":", ",", "1e-3", ":100", ":0.5", "-", "nan", "inf", " ")
_SCALES = ("3", "1.5-3", "1.5-3:cos2", "1.5-3:sqrt(rate)", "1-5:max(rate, 1 - rate) ** 2 / (1 + exp(-rate))")
_SCALE_WORDS = (
    *("rate", "sqrt(", "(", ")", "**", "*", "/", "-", "+", "1.5-3:", "cos", "exp(", "9", "e", "min(1,", "^"),
)
_MIXES = ("0.5*cat + 0.5*dog - \"fur\", 'my cat'", "(cat, dog) / 2", "-cat * 1e-3")
_MIX_WORDS = ("cat", '"fur"', "'my cat'", "(", ")", "+", "-", "*", "/", ",", "0.5", "1e308", " ", "cat,")
_TAGS = ("a <net:cat:0.8:te=0.5:blocks=OUTALL:start=0.2:stop=0.8:rank=4:hr=only> x", "<net:cat:1:0.5>")
_TAG_WORDS = (
    *(
        "<net:",
        ">",
        ":",
        "=",
        "te",
        "blocks=",
        "OUTALL",
        "start=0.5",
        "hr=only",
        "rank=",
        "0.8",
        ",",
        "<lora:",
    ),
)
_ARGS = (
    "conv_dim=4 down_lr_weight=sine+.5",
    f"algo=lora block_dims={','.join('4' * 25)}",
    "up_lr_weight=zeros",
)
_ARGS_WORDS = (
    *("conv_dim=", "down_lr_weight=", "sine+.5", "up_lr_weight=cosine", "block_dims=", "algo=", "lora", " "),
    *("=", "1,1,1,1", "zeros", "unit=4", "-1", "nan", "dropout=0.1", ","),
)
_OPTIMIZERS = ("betas=(0.9, 0.99) eps=1e-6", '{"betas": [0.9, 0.99], "amsgrad": true}')
_OPT_WORDS = (*("betas=", "(0.9, 0.99)", "eps=1e-6", "{", "}", '"', ":", "[", "(", ",", "True", "null", " "),)
_PROMPT_TABLES = ('[prompt]\nwidth = 96\n[[prompt.subset]]\nprompt = "a cat --n dog"\nseed = 7\n',)
_PROMPT_WORDS = (
    *("[prompt]", "[[prompt.subset]]", "prompt = ", '"', "\n", " --n ", " --w 64", "[", "=", "{", "1"),
)


def _text_targets() -> Iterator[Target]:
    templates = [path.read_text(encoding="utf-8") for path in sorted(OUR_TEMPLATES.glob("*.txt"))]
    for name, seeds, words, read, past, file in (
        ("caption", _CAPTIONS, _CAPTION_WORDS, _read_caption, _is_text, "cat.txt"),
        ("template", templates, _TEMPLATE_WORDS, _read_template, _is_text, "cat.txt"),
        ("data set, TOML", [_TOML], _DATASET_WORDS, _read_dataset, _with("[["), "data.toml"),
        ("data set, JSON", [_JSON], _DATASET_WORDS, _read_dataset, _with("{"), "data.json"),
        ("metadata file", [_METADATA], _DATASET_WORDS, _read_metadata, _with("{"), "meta.json"),
        ("sample prompts", _PROMPT_TABLES, _PROMPT_WORDS, read_prompts, _with("="), "prompts.toml"),
        ("learning rate", _RATES, _RATE_WORDS, _typed(_read_rate), _with_number, "text"),
        ("guidance scale", _SCALES, _SCALE_WORDS, _typed(parse_guidance), _with_number, "text"),
        ("mixing expression", _MIXES, _MIX_WORDS, _typed(_read_mix), _with("cat"), "text"),
        ("network tag", _TAGS, _TAG_WORDS, _typed(take_calls), _with("<net:"), "text"),
        ("network arguments", _ARGS, _ARGS_WORDS, _typed(_read_network_args), _with("="), "text"),
        ("optimizer arguments", _OPTIMIZERS, _OPT_WORDS, _typed(parse_arguments), _with("=", "{"), "text"),
    ):
        grown = partial(_encoded, seeds)
        yield Target(name, grown, mutate_text(words), read, past, (file,))


def _job_targets() -> Iterator[Target]:
    for name, seeds, mutate, read, past, file in rows():
        yield Target(name, partial(_given, seeds), mutate, read, past, (file,))


def _given(seeds: Sequence[bytes], folder: Path) -> list[bytes]:
    return list(seeds)


def _encoded(texts: Sequence[str], folder: Path) -> list[bytes]:
    return [text.encode() for text in texts]


# Whether an input gets past its beginning, told without the readers that are tested.


def _has_header(data: bytes) -> bool:
    size = int.from_bytes(data[:8], "little")
    return data[8:9] == b"{" and isinstance(json.loads(data[8 : 8 + size]), dict)


def _has_program(data: bytes) -> bool:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return data[:2] == b"PK" and any(name.endswith("/data.pkl") for name in archive.namelist())


_STREAM_HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def _is_stream(data: bytes) -> bool:
    return data.startswith(_STREAM_HEAD)


def _is_picture(data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.width > 0


def _is_text(data: bytes) -> bool:
    return bool(data.decode("utf-8-sig").strip())


def _with(*words: str) -> Callable[[bytes], bool]:
    """It holds a word with which the language begins."""
    return lambda data: any(word in data.decode() for word in words)


def _with_number(data: bytes) -> bool:
    return data.decode().lstrip()[:1].isdigit()


TARGETS: dict[str, Target] = {
    target.name: target
    for targets in (
        _embedding_targets(),
        _network_targets(),
        _checkpoint_targets(),
        _picture_targets(),
        _card_target(),
        _text_targets(),
        _job_targets(),
    )
    for target in targets
}
