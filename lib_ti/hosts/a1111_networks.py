"""Networks that a prompt calls in AUTOMATIC1111's WebUI: ``<net:NAME:...>``, beside its own ``<lora:...>``.

The WebUI reads tags in the prompt only, and hands ours to ``PromptNetwork``. Those in the negative prompt
are taken out here; they act on the unconditional half. No weight of the model is ever written to, so the
built-in extension, which writes its own into them, finds what it left.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.hosts.a1111_model import family_of, parts_of
from lib_ti.networks.prompt import HOST_WORD, WORD, NetworkCall, parse_tag, take_tags
from lib_ti.networks.prompt_files import NetworkFolders, metadata_of
from lib_ti.networks.prompt_pasted import HASHES
from lib_ti.networks.prompt_run import Called, PromptNetworks

log = logging.getLogger(__name__)

CALLS = "ti_studio_calls"  # attribute of a generation: the calls that the page's slots make
_DRAWING = "ti_studio_drawing"  # attribute of a generation: what its prompts call
_HASH_DIGITS = 12  # as many as the WebUI writes of a LoRA's


def network_folders() -> NetworkFolders:
    """Where the WebUI's own extension looks."""
    from modules import paths, shared

    usual = Path(paths.models_path, "Lora")
    return NetworkFolders([Path(getattr(shared.cmd_opts, "lora_dir", usual))])


class PromptNetwork:
    """An extra network as the WebUI knows it."""

    name = WORD

    def activate(self, p: Any, params_list: Sequence[Any]) -> None:
        """At the start of every batch and pass of the generation ``p``, whatever it calls."""
        drawing = vars(p).setdefault(_DRAWING, _Drawing())
        below = _take_negative(p, words())
        drawing.begin(p, [":".join(map(str, params.items)) for params in params_list], below)

    def deactivate(self, p: Any) -> None:
        end_drawing()


def register(*, takes_over: bool) -> None:
    """``takes_over``: the built-in extension's tags are ours too where it is switched off."""
    from modules import extra_networks

    network = PromptNetwork()
    extra_networks.register_extra_network(network)
    if takes_over:  # an alias counts only as long as nobody has the name
        extra_networks.register_extra_network_alias(network, HOST_WORD)


def words() -> tuple[str, ...]:
    """Of our tags: also the built-in extension's, where that is off and its tags were to be ours."""
    from modules import extra_networks

    alias = extra_networks.extra_network_aliases.get(HOST_WORD)
    is_taken = HOST_WORD in extra_networks.extra_network_registry
    return (WORD, HOST_WORD) if isinstance(alias, PromptNetwork) and not is_taken else (WORD,)


def before_denoising(params: Any) -> None:
    """Called by the WebUI's sampler before the U-Net: which rows of the batch are the negative prompt's."""
    denoiser = params.denoiser
    drawing = getattr(denoiser.p, _DRAWING, None)
    networks = drawing and drawing.networks(denoiser.p)
    if networks:
        rows, conditional = params.x.shape[0], params.text_cond.shape[0]
        negative = [row >= conditional for row in range(rows)]
        networks.denoise(denoiser.step / denoiser.total_steps, negative, hires=_is_hires(denoiser.p))


def end_drawing() -> None:
    """Takes everything of ours out of the model, also what a generation left that was broken off."""
    if _Drawing.hanging is not None:
        _Drawing.hanging.take_down()


def _take_negative(p: Any, words: Iterable[str]) -> dict[str, list[str]]:
    """Takes the tags out of the batch's negative prompts; by the list's name, what its first one called."""
    found = {}
    for name in ("negative_prompts", "hr_negative_prompts"):
        taken = [take_tags(prompt, words) for prompt in getattr(p, name, None) or []]
        if any(tags for _, tags in taken):
            setattr(p, name, [text for text, _ in taken])
            found[name] = taken[0][1]
    return found


def _is_hires(p: Any) -> bool:
    return bool(getattr(p, "is_hr_pass", False))


class _Drawing:
    """The networks of one generation: what its prompts call, and what of it hangs in the model now.

    It is given the generation anew every time, since scripts copy generations with all they hold.
    """

    hanging: _Drawing | None = None

    def __init__(self) -> None:
        self._batch: tuple[object, int] = (None, 0)
        self._tags: Sequence[str] = ()
        self._below: dict[str, list[str]] = {}
        self._calls: list[Called] = []
        self._networks: PromptNetworks | None = None

    def begin(self, p: Any, tags: Sequence[str], below: dict[str, list[str]]) -> None:
        """``below``: tags of the negative prompts, which lose them the first time in a batch."""
        prompts, number = getattr(p, "all_negative_prompts", None), getattr(p, "iteration", 0)
        same = self._batch[0] is prompts and self._batch[1] == number
        self._batch = prompts, number
        self._tags, self._below = tags, {**self._below, **below} if same else below
        self._choose(p, hires=_is_hires(p))
        if _Drawing.hanging is not self:
            end_drawing()
        if self._calls or self._below:
            p.__class__ = _reading_with_networks(p.__class__)
            _tell_hashes(p, self._calls)

    def _choose(self, p: Any, *, hires: bool) -> None:
        negative = self._below.get("hr_negative_prompts" if hires else "negative_prompts", [])
        calls = [*_find(p, self._tags), *_find(p, negative, negative=True), *_find(p, getattr(p, CALLS, ()))]
        if calls != self._calls:
            self.take_down()
        self._calls = calls

    @contextmanager
    def of_text(self, p: Any, *, hires: bool) -> Iterator[PromptNetworks | None]:
        """While texts are read. Those of the hires pass may come before the first pass draws: with --medvram,
        and then its own networks count, or because the user wants the first pass's for them too."""
        from modules import shared

        early = hires and not _is_hires(p) and not shared.opts.hires_fix_use_firstpass_conds
        if early:
            self._choose(p, hires=True)
        try:
            yield self.networks(p)
        finally:
            if early:
                self._choose(p, hires=False)

    def networks(self, p: Any) -> PromptNetworks | None:
        """In the model that is loaded now: a refiner, or the next batch, may bring another one."""
        from modules import shared

        if not self._calls:
            return None
        family = family_of(shared.sd_model)
        if family is None:
            end_drawing()
            tell(p, "Networks are not used: the checkpoint is none of SD 1.x, SD 2.x and SDXL (base).")
            return None
        parts = parts_of(shared.sd_model, family)
        if self._networks is None or not self._networks.hangs_in(parts):
            end_drawing()
            self._networks = PromptNetworks(parts, family, self._calls, _refresh)
            _Drawing.hanging = self
            for sentence in (*self._networks.refused, *self._networks.told):
                tell(p, sentence)
            for called, report in self._networks.reports.items():
                _report(called.file, called.stamp, report)
        return self._networks

    def take_down(self) -> None:
        if self._networks is not None:
            self._networks.remove()
            self._networks = None
        if _Drawing.hanging is self:
            _Drawing.hanging = None


def builtin_networks() -> Any:
    """The module of the built-in Lora extension; None where that is switched off."""
    networks = sys.modules.get("networks")
    return networks if hasattr(networks, "loaded_networks") else None  # it may be somebody else's module


def _refresh(module: nn.Module) -> None:
    """As the built-in extension begins every call of a layer: by writing its LoRAs into the weights."""
    from modules import shared

    networks = builtin_networks()
    if networks is None:
        return
    if getattr(shared.opts, "lora_functional", False):
        networks.network_restore_weights_from_backup(module)
        networks.network_reset_cached_weight(module)
    else:
        networks.network_apply_weights(module)


def _find(p: Any, wanted: Sequence[str | NetworkCall], *, negative: bool = False) -> list[Called]:
    """Those that can be called; the others are told under the picture, as the WebUI does with its own."""
    found = []
    for item in wanted:
        try:
            call = parse_tag(item) if isinstance(item, str) else item
            found.append(Called.of(call, network_folders().find(call.name), negative=negative))
        except BadInput as error:
            tell(p, str(error))
    return found


def tell(p: Any, sentence: str) -> None:
    """Under the picture, and in the console."""
    log.warning(sentence)
    p.comment(sentence)


@lru_cache(maxsize=64)  # so once for each file as it is, and not with every picture
def _report(_file: Path, _stamp: tuple[int, int], report: str) -> None:
    log.warning(report)  # what is less than a warning the WebUI's console does not show


def _tell_hashes(p: Any, calls: Sequence[Called]) -> None:
    """Into the picture's text, as the WebUI does with its own: a network may be renamed some day."""
    told = {}
    for called in calls:
        with suppress(BadInput):  # a damaged file is told of when it is read
            told[called.file.stem] = metadata_of(called.file).get("sshs_model_hash", "")[:_HASH_DIGITS]
    hashes = ", ".join(f"{name}: {digits}" for name, digits in told.items() if digits)
    if hashes:
        p.extra_generation_params[HASHES] = hashes


@cache
def _reading_with_networks(kind: type[Any]) -> type[Any]:
    """The WebUI's class of generations, for one that calls networks.

    A class, and not functions on the object, because scripts copy such objects.
    """
    if hasattr(kind, "ti_studio_key"):
        return kind

    def get_conds_with_caching(
        self: Any,
        function: Any,
        prompts: Any,
        steps: int,
        caches: Any,
        extra_network_data: Any,
        hires_steps: int | None = None,
    ) -> Any:
        negative, hires = getattr(prompts, "is_negative_prompt", False), hires_steps is not None
        with ExitStack() as stack:
            networks = stack.enter_context(getattr(self, _DRAWING).of_text(self, hires=hires))
            self.ti_studio_key = ()
            if networks is not None:
                reading = networks.reading(negative=negative, hires=hires)
                self.ti_studio_key = stack.enter_context(reading)
            return kind.get_conds_with_caching(
                self, function, prompts, steps, caches, extra_network_data, hires_steps
            )

    def cached_params(self: Any, *args: Any, **named: Any) -> tuple[Any, ...]:
        """What two texts must have in common to be the same condition."""
        return (*kind.cached_params(self, *args, **named), self.ti_studio_key)

    def close(self: Any) -> None:
        end_drawing()
        kind.close(self)

    made = {
        "ti_studio_key": (),
        "get_conds_with_caching": get_conds_with_caching,
        "cached_params": cached_params,
        "close": close,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    }
    return type(kind.__name__, (kind,), made)
