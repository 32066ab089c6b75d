"""A job's status as HTML: what happens, how far it is, how the loss goes. Foreign text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lib_ti.methods.kind import Words
from lib_ti.runs import Status
from lib_ti.tools.at_work import Work

_CURVE = (600, 160)  # pixels
_POINTS = 300  # of a drawn curve
_FIRST_CURVE = 30  # steps; of fewer the running mean says nothing
_TAGS = 100  # that are shown
_SMOOTH = 0.05  # the running mean's share of each new loss
_UNFOLDED = 8  # entries inside a result that are seen at once
_INLINE = 3  # entries that stand in a line
_LONG = 200  # characters of a value that are

_TITLES = {
    "waiting": "Waiting: the model is in use",
    "preparing": "Preparing: reading the pictures",
    "training": "Training",
    "done": "Done",
    "stopped": "Stopped",
    "failed": "Failed",
    "broken off": "Broken off",
}


def duration(seconds: float) -> str:
    """``seconds`` as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# What a page shows before it has asked; its script asks as long as this, or a job that runs, is there.
ASKING = '<div class="ti-studio-status" data-ask="1"><p>Looking for a job …</p></div>'


def status_html(
    status: Status | None,
    losses: Sequence[tuple[int, float, float]],
    published: int,
    waiting: Sequence[str] = (),
) -> str:
    """The panel beside the controls. ``published``: files put into the embeddings folder so far; when it
    changes the page's script has the cards listed anew. ``waiting``: the words of the jobs that come then."""
    if status is None:
        text = "Nothing trains yet. Name a new word, choose a folder with pictures of it, and press Train."
        return f'<div class="ti-studio-status" data-published="{published}"><p>{text}</p></div>'
    parts = [
        f'<div class="ti-studio-title">{_title(status)}: {escape(status.settings["name"])}</div>',
        _progress(status),
        f'<p class="ti-studio-message">Then: {escape(", ".join(waiting))}</p>' if waiting else "",
        f'<div class="ti-studio-result">{_result(status)}</div>',
        _curves(status, losses),
        "".join(f'<p class="ti-studio-message">{escape(text)}</p>' for text in status.messages),
    ]
    kind = status.status.replace(" ", "-")
    return (
        f'<div class="ti-studio-status ti-studio-{kind}" data-ask="{int(status.running)}" '
        f'data-published="{published}">{"".join(parts)}</div>'
    )


def _title(status: Status) -> str:
    if status.status == "waiting" and status.ahead:
        return f"Waiting: {status.ahead} job{'s come' if status.ahead > 1 else ' comes'} first"
    return _TITLES[status.status]


def error_html(sentence: str) -> str:
    """Why nothing happened."""
    return f'<div class="ti-studio-status ti-studio-failed"><p>{escape(sentence)}</p></div>'


def said_html(sentence: str) -> str:
    """What a button did."""
    return f'<div class="ti-studio-status ti-studio-done"><p>{escape(sentence)}</p></div>'


def works_html(works: Sequence[Work]) -> str:
    """How far tools are; the page's script asks again as long as one is at work."""
    rows = "".join(_bar(work.done, work.of, f"{work.name}: {work.done} of {work.of}") for work in works)
    return f'<div class="ti-studio-status ti-studio-training" data-ask="1">{rows}</div>' if rows else ""


def told_html(told: Mapping[str, Any]) -> str:
    """What a tool found: names and values; rows of one kind as a table of their own; what is long, folded."""
    plain = {name: value for name, value in told.items() if not _has_parts(value)}
    parts = (f"<h4>{escape(str(n))}</h4>{_value(v)}" for n, v in told.items() if _has_parts(v))
    return f'<div class="ti-studio-found">{_pairs(plain)}{"".join(parts)}</div>' if told else ""


def _has_parts(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, (list, tuple)) and any(isinstance(one, (Mapping, list, tuple)) for one in value)


def _pairs(told: Mapping[str, Any]) -> str:
    """Names and values; what is empty is left out."""
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{_value(value)}</td></tr>"
        for name, value in told.items()
        if value not in (None, "", [], {})
    )
    return f'<table class="ti-studio-told">{rows}</table>' if rows else ""


def tags_html(tags: Mapping[str, int]) -> str:
    """How often each tag occurs, the first hundred of them."""
    shown = "".join(f"<span><b>{escape(tag)}</b> {count}</span>" for tag, count in list(tags.items())[:_TAGS])
    return f'<div class="ti-studio-tags">{shown}</div>'


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        if len(value) <= _INLINE and not any(map(_has_parts, value.values())):
            return ", ".join(f"{escape(str(name))}: {_value(one)}" for name, one in value.items())
        table = _pairs(value)
        return table if len(value) <= _UNFOLDED else _folded(f"{len(value)} entries", table)
    if _has_parts(value):
        if all(isinstance(one, Mapping) and not any(map(_has_parts, one.values())) for one in value):
            return _table(value)
        return "".join(
            f"<div>{_pairs(one) if isinstance(one, Mapping) else _value(one)}</div>" for one in value
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if len(text) > _LONG:
        return _folded(f"{text[:_LONG]} …", f"<div>{escape(text)}</div>")
    return escape(text)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A column for each name that any of ``rows`` has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    lines = (("".join(f"<td>{_value(row.get(name, ''))}</td>" for name in names)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table class="ti-studio-rows"><tr>{head}</tr>{body}</table>'


def _folded(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def _progress(status: Status) -> str:
    told = [f"step {status.step} of {status.steps}"]
    if status.seconds_per_step is not None and status.running:
        told.append(f"{status.seconds_per_step:.2f} s a step")
    if status.seconds_left is not None:
        told.append(f"{duration(status.seconds_left)} left")
    if status.loss is not None:
        told.append(f"loss {status.loss:.4f}")
    return _bar(status.step, status.steps, " · ".join(told))


def _bar(done: int, of: int, told: str) -> str:
    share = 100 * done / of if of else 0
    return (
        f'<div class="ti-studio-bar"><div style="width:{share:.1f}%"></div></div>'
        f'<p class="ti-studio-numbers">{escape(told)}</p>'
    )


def words_html(words: Words) -> str:
    """Where to write them, and buttons with which the page's script does it."""
    return f'<div class="ti-studio-status"><p>{_use(words)}.</p>{_buttons(words)}</div>'


def _result(status: Status) -> str:
    words = _words(status)
    if status.status == "done":
        return f"<p>{_use(words)}. {_place(status)}</p>{_buttons(words)}"
    if status.status == "stopped" and words.all:
        return f"<p>What it had learned is saved. {_use(words)}. {_place(status)}</p>{_buttons(words)}"
    if status.status == "stopped":
        return "<p>Everything is saved. Resume goes on from here; a saved step can be put to use below.</p>"
    if status.status == "failed":
        return f"<p>{escape(status.error or 'for a reason it did not tell')}</p>"
    if status.status == "broken off":
        return "<p>The program ended while it trained. Resume goes on from the last saved state.</p>"
    return ""


def _words(status: Status) -> Words:
    """A file is called by its name, a network's in a call of its own, beside the word that it was taught."""
    positive, negative, *others = (
        Path(file or "").stem
        for file in (status.embedding, status.negative_embedding, *status.other_embeddings)
    )
    if status.network:
        word = positive or status.settings.get("trigger_word", "")
        positive, *others = filter(None, (word, f"<lora:{Path(status.network).stem}:1>"))
    return Words(positive, negative, tuple(others))


def _use(words: Words) -> str:
    places = {"prompt": words.for_prompt, "negative prompt": words.for_negative}
    return "Write " + " and ".join(
        f"{_bold(found)} in {'the' if words.negative else 'a'} {place}"
        for place, found in places.items()
        if found
    )


def _bold(words: Sequence[str]) -> str:
    return ", ".join(f"<b>{escape(word)}</b>" for word in words)


def _buttons(words: Words) -> str:
    """Of each of the program's pages that have prompts, by the id that its boxes begin with."""
    prompt, negative = (escape(", ".join(found)) for found in (words.for_prompt, words.for_negative))
    told = f'data-prompt="{prompt}" data-negative="{negative}"'
    noun = "them" if len(words.all) > 1 else "it"
    buttons = (
        f'<button type="button" data-ti-studio-write="{page}" {told}>Write {noun} into {page}</button>'
        for page in ("txt2img", "img2img")
    )
    return f'<p class="ti-studio-write">{"".join(buttons)}</p>'


def _place(status: Status) -> str:
    words = (status.embedding, status.negative_embedding, *status.other_embeddings)
    files = [escape(file) for file in (*words, status.network, status.bundle) if file]
    return f"It lies in {files[0]}." if len(files) == 1 else f"They lie in {' and '.join(files)}."


def _curves(status: Status, losses: Sequence[tuple[int, float, float]]) -> str:
    """The loss of the fixed batch where there is one, else the running mean of every step's."""
    if len(status.evaluations) > 1:
        best = min(status.evaluations, key=lambda row: row[1])[0]
        return _curve(status.evaluations, f"loss of one fixed batch, best at step {best}")
    if len(losses) < _FIRST_CURVE:
        return ""
    mean, smooth = losses[0][1], []
    for step, loss, _ in losses:
        mean += _SMOOTH * (loss - mean)
        smooth.append((step, mean))
    stride = max(1, len(losses) // _POINTS)
    return _curve(smooth[::stride], "running mean of the loss; it is noisy, believe the previews")


def _curve(points: Sequence[tuple[int, float]], caption: str) -> str:
    """Losses over the steps, as SVG with its range in words."""
    width, height = _CURVE
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]

    def place(step: int, loss: float) -> str:
        x = width * (step - first) / max(1, last - first)
        y = height - 4 - (height - 8) * ((loss - low) / (high - low) if high > low else 0.5)
        return f"{x:.1f},{y:.1f}"

    line = " ".join(place(*point) for point in points)
    return (
        f'<figure class="ti-studio-curve"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'role="img" aria-label="loss over the steps"><polyline points="{line}" /></svg>'
        f"<figcaption>{high:.4f} to {low:.4f}: {caption}</figcaption></figure>"
    )
