"""``ti-studio generate``: draw pictures, with the embeddings and networks that are there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib_ti.commands.shared import Stopped
from lib_ti.core.errors import BadInput
from lib_ti.core.names import as_prompted
from lib_ti.formats.embedding import Embedding, read_embeddings
from lib_ti.hosts.base import Host, SampleRequest
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under
from lib_ti.methods.embedding_check import why_missed
from lib_ti.networks.prompt import HOST_WORD, WORD, take_calls, unread_tags
from lib_ti.networks.prompt_files import NetworkFolders
from lib_ti.networks.prompt_run import Called, PromptNetworks
from lib_ti.report import save_png

# Here is no other loader that the WebUI's own tag, or the one of its LyCORIS extension, could belong to.
_WORDS = (WORD, HOST_WORD, "lyco")


def run(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    for name, low, high in (("count", 1, 1000), ("steps", 1, 1000), ("cfg", 1, 50), ("seed", 0, 2**32 - 1)):
        if not low <= getattr(args, name) <= high:
            raise BadInput(f"{name}: got {getattr(args, name)}, expected {low} to {high}.")
    for name, size in (("width", args.width), ("height", args.height)):
        if size and (size % 8 or not 64 <= size <= 4096):
            raise BadInput(f"{name}: got {size}, expected a multiple of 8 pixels from 64 to 4096.")
    given = {
        path: read_embeddings(path) for path in args.embedding
    }  # or say why not, before a model is loaded
    folders = NetworkFolders([*args.networks, folders_under(args.data).networks])
    prompt, called = _take_called(args.prompt, folders, negative=False)
    negative, called_there = _take_called(args.negative, folders, negative=True)
    called += called_there
    notes = [*unread_tags(prompt, _WORDS), *unread_tags(negative, _WORDS)]
    host = StandaloneHost.load(args.model, args.device, args.clip_skip, args.prediction)
    notes.append(host.info.prediction_told)
    with host.lend(), hung(host, called) as networks:
        if networks:
            notes += [*networks.reports.values(), *networks.told]
        loaded = load_embeddings(host, folders_under(args.data).embeddings, given)
        counts = host.count_triggers(f"{prompt} BREAK {negative}")
        found = {name for name, count in counts.items() if count}
        notes += [*loaded.notes, *loaded.said_of(found, f"{prompt}\n{negative}")]
        for note in notes:
            print(note, file=sys.stderr)
        paths: list[Path] = []
        for seed in range(args.seed, args.seed + args.count):
            if stopped():
                break
            request = SampleRequest(
                prompts=[prompt],
                seeds=[seed],
                negative_prompt=negative,
                steps=args.steps,
                cfg_scale=args.cfg,
                width=args.width or host.info.native_size,
                height=args.height or host.info.native_size,
            )
            paths.append(_free_name(args.out, seed))
            save_png(host.sample(request, networks)[0], paths[-1])
            print(paths[-1], file=sys.stderr)
    status = "done" if len(paths) == args.count else "stopped"
    return {
        "status": status,
        "images": [str(path) for path in paths],
        "embeddings": sorted(found),
        "networks": sorted({str(each.file) for each in called}),
        "notes": notes,
    }


def _take_called(text: str, folders: NetworkFolders, *, negative: bool) -> tuple[str, list[Called]]:
    """A prompt without its tags, and the networks that these call. Raises BadInput."""
    prompt, calls = take_calls(text, _WORDS)
    return prompt, [Called.of(call, folders.find(call.name), negative=negative) for call in calls]


@contextmanager
def hung(host: StandaloneHost, called: Sequence[Called]) -> Iterator[PromptNetworks | None]:
    """The networks in the model, for a while; None where none is called. Raises BadInput for one that
    cannot be used."""
    if not called:
        yield None
        return
    networks = PromptNetworks(host.parts(), host.info.family, called)
    try:
        if networks.refused:
            raise BadInput(networks.refused[0])
        yield networks
    finally:
        networks.remove()


@dataclass
class Loaded:
    """Embeddings that prompts can call: each by its file's name, and by the word that it was trained as."""

    vectors: dict[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    given: dict[Path, list[str]] = field(default_factory=dict)  # file that was named -> what calls it
    trained_as: dict[str, str] = field(default_factory=dict)  # such a word -> the name of its file
    notes: list[str] = field(default_factory=list)  # what is not used

    def add(self, embedding: Embedding, host: Host, file: Path, *, given: bool) -> None:
        """A file's name goes before a word that another was trained as."""
        self.vectors[embedding.name] = embedding.vectors
        self.trained_as.pop(embedding.name, None)
        names = [embedding.name]
        token = embedding.token
        # One that is a token of the vocabulary, such as * or a plain word, would take over every prompt.
        if token and token not in self.vectors and len(host.tokenize(token)) > 1:
            self.vectors[token] = embedding.vectors
            self.trained_as[token] = embedding.name
            names.append(token)
        if given:
            self.given.setdefault(file, []).extend(names)

    def said_of(self, found: set[str], prompts: str) -> Iterator[str]:
        """What there is to say where prompts call the words ``found``."""
        for token in sorted(self.trained_as.keys() & found):
            yield (
                f"{token} is the word that {self.trained_as[token]} was trained as; a WebUI knows it by its "
                f"file's name alone."
            )
        for file, names in self.given.items():
            if not found & set(names):
                calls = " or ".join(map(as_prompted, names))
                yield f"{file.name} is in no prompt, so it was not used; write {calls} into one."
        for name in sorted(self.vectors.keys() - found):
            if missed := why_missed(name, prompts):
                yield f"{missed.what} {missed.remedy}"


def load_embeddings(host: Host, folder: Path, files: Mapping[Path, Sequence[Embedding]]) -> Loaded:
    """Let prompts call the embeddings in ``folder``, as a WebUI does, and those in ``files``.

    One in the folder that is for another family is passed over with a note; a named one is refused.
    """
    loaded = Loaded()
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        try:
            found = read_embeddings(path) if path.is_file() and not path.name.startswith(".") else []
        except BadInput as error:
            loaded.notes.append(f"not used: {error}")
            continue
        for embedding in found:
            widths = {name: vectors.shape[1] for name, vectors in embedding.vectors.items()}
            if widths == dict(host.info.text_encoders):
                loaded.add(embedding, host, path, given=False)
            else:
                loaded.notes.append(f"not used: {path.name} is for {embedding.family}, this is another model")
    for path, named in files.items():
        for embedding in named:
            loaded.add(embedding, host, path, given=True)
    device = host.info.device
    host.set_embeddings(
        {name: {k: v.to(device) for k, v in vectors.items()} for name, vectors in loaded.vectors.items()}
    )
    return loaded


def _free_name(folder: Path, seed: int) -> Path:
    for number in range(10_000):
        path = folder / (f"{seed}.png" if number == 0 else f"{seed}-{number}.png")
        if not path.exists():
            return path
    raise BadInput(f"{folder} already holds ten thousand pictures of seed {seed}; choose another --out.")
