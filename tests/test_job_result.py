"""What a job leaves and says beside its vectors: evaluations, averages, the kept step, the gauge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.core.settings import build
from lib_ti.formats.card import read_card
from lib_ti.formats.embedding import Embedding, read_embedding, write_safetensors
from lib_ti.hosts.base import SampleRequest
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_cards import make_cards
from lib_ti.job_run import Evaluation, Event, Message, Outcome, saved_steps
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.registry import kind_of, read_settings
from lib_ti.methods.vector_settings import InversionSettings

WATCHED = {"preview_every": 0, "evaluate_every": 4, "evaluate_pictures": 2, "ema": 0.9, "save_every": 4}


def settings_of(told: Mapping[str, Any], **more: Any) -> InversionSettings:
    return build(InversionSettings, {**told, **WATCHED, **more})


def train(
    host: StandaloneHost,
    data: Path,
    settings: InversionSettings,
    report: Callable[[Event], None] = lambda event: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    return start(host, settings, folders=folders_under(data), model="builtin", report=report, stopped=stopped)


def vectors_of(path: Path) -> torch.Tensor:
    return read_embedding(path).vectors["clip_l"]


def test_evaluations_are_written_sent_and_gone_on_with(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    told, events = settings_of(settings), list[Event]()
    whole = train(host, tmp_path / "whole", told, events.append)
    seen = [event for event in events if isinstance(event, Evaluation)]
    assert [event.step for event in seen] == [4, 8, 12, 16, 20]
    assert whole.job.evaluations() == [(e.step, pytest.approx(e.loss, rel=1e-5)) for e in seen]
    assert all(event.best_step <= event.step for event in seen)

    halves, steps = tmp_path / "halves", iter(range(12))
    first = train(host, halves, told, stopped=lambda: next(steps, None) is None)
    assert (first.status, first.step) == ("stopped", 12)
    job, folders = Job.open(folders_under(halves).jobs, first.job.id), folders_under(halves)
    second = resume(host, job, folders=folders, report=lambda event: None, stopped=lambda: False)
    assert torch.equal(vectors_of(second.embedding), vectors_of(whole.embedding))
    assert job.evaluations() == whole.job.evaluations()
    assert [replace(r) for r in second.vectors] == list(whole.vectors)


def copies(outcome: Outcome) -> list[int]:
    return saved_steps(outcome.job)


def test_lengths_in_epochs_are_settled_once_and_gone_on_with(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Three pictures, two at a step: an epoch is two steps."""
    told = settings_of(
        settings,
        steps=999,
        batch_size=2,
        epochs=5,
        learning_rate="0.1:0.5, 0.01",
        copy_every_epochs=2,
        evaluate_every_epochs=1,
    )
    said: list[str] = []
    whole = train(
        host, tmp_path / "whole", told, lambda e: said.append(e.text) if isinstance(e, Message) else None
    )
    assert (whole.status, whole.step, copies(whole)) == ("done", 10, [4, 8, 10])
    assert [step for step, _ in whole.job.evaluations()] == [2, 4, 6, 8, 10]
    assert [rate for _, _, rate in whole.job.losses()] == [0.1] * 5 + [0.01] * 5
    assert any("3 pictures, 10 steps (2 to an epoch)" in text for text in said)

    halves, steps = tmp_path / "halves", iter(range(5))
    first = train(host, halves, told, stopped=lambda: next(steps, None) is None)
    assert (first.status, first.step) == ("stopped", 5)
    job, folders = Job.open(folders_under(halves).jobs, first.job.id), folders_under(halves)
    second = resume(host, job, folders=folders, report=lambda event: None, stopped=lambda: False)
    assert second.step == 10
    assert torch.equal(vectors_of(second.embedding), vectors_of(whole.embedding))


def test_the_last_copies_stay_and_the_best(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    told = settings_of(
        settings, copy_every=2, keep_last=2, preview_every=10, learning_rate="0.01:12, 1e-12", ema=0.0
    )
    outcome = train(host, tmp_path, told)
    best = min(outcome.job.evaluations(), key=lambda row: row[1])[0]
    assert best < 18  # or the test says nothing
    assert copies(outcome) == [best, 18, 20]
    assert sorted(outcome.job.previews()) == [10, 20]
    assert read_embedding(outcome.embedding).step == 20


def test_a_copy_that_is_yet_to_be_made_again_is_none_of_the_last(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Copies go on after the last saved state; a job that was killed then goes back to that."""
    told, steps = settings_of(settings, copy_every=2, keep_last=2, evaluate_every=0), iter(range(8))
    first = train(host, tmp_path, told, stopped=lambda: next(steps, None) is None)
    left = first.job.copies / "zqx-cat-000014.safetensors"
    left.write_bytes((first.job.copies / "zqx-cat-000008.safetensors").read_bytes())
    steps = iter(range(2))
    resume(
        host,
        first.job,
        folders=folders_under(tmp_path),
        report=lambda event: None,
        stopped=lambda: next(steps, None) is None,
    )
    assert copies(first) == [8, 10, 14]


def test_what_is_saved_and_shown_is_the_average(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[torch.Tensor] = []

    def sample(request: SampleRequest) -> list[Image.Image]:
        [embedding] = host._embeddings.values()
        shown.append(embedding["clip_l"].detach().clone())
        return [Image.fromarray(np.zeros((8, 8, 3), np.uint8))]

    monkeypatch.setattr(host, "sample", sample)
    outcome = train(host, tmp_path, settings_of(settings, preview_every=20))
    state = outcome.job.load_state()
    assert state is not None
    average = state.beside["clip_l"]["average"]
    assert torch.equal(vectors_of(outcome.embedding), average)
    assert torch.equal(shown[-1], average)
    assert not torch.equal(state.parameters["clip_l"], average)


def test_with_a_stop_rule_the_best_step_is_kept_and_said(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    told = settings_of(
        settings,
        steps=200,
        stop_rule="plateau",
        stop_window=12,
        learning_rate="0.5",
        ema=0.0,
        stop_threshold=0.001,
    )
    said: list[str] = []
    outcome = train(host, tmp_path, told, lambda e: said.append(e.text) if isinstance(e, Message) else None)
    rows = outcome.job.evaluations()
    assert outcome.status == "done" and outcome.step == rows[-1][0] < 200
    assert outcome.kept_step == min(rows, key=lambda row: row[1])[0] < outcome.step
    assert read_embedding(outcome.embedding).step == outcome.kept_step
    assert any(f"kept the vectors of step {outcome.kept_step}, the best" in text for text in said)


def test_the_gauge_is_in_the_result(host: StandaloneHost, settings: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    outcome = train(
        host,
        tmp_path,
        settings_of(settings),
        lambda e: said.append(e.text) if isinstance(e, Message) else None,
    )
    told = outcome.as_json()["vectors"]
    assert [(row["name"], row["vector"]) for row in told] == [("clip_l", 1), ("clip_l", 2)]
    usual = float(host.token_vectors("clip_l").norm(dim=1).median())
    lengths = (vectors_of(outcome.embedding).norm(dim=1) / usual).tolist()
    assert [row["length"] for row in told] == pytest.approx(lengths)
    assert all(row["moved"] > 0 and row["gradient"] > 0 for row in told)
    assert any(text.startswith("vectors moved") for text in said)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"stop_rule": "dvar", "evaluate_every": 0}, "stop-rule dvar"),
        ({"optimizer": "os.system"}, "optimizer: got"),
        ({"min_timestep": 900, "max_timestep": 100}, "leave none"),
        ({"zero_terminal_snr": True}, "zero-terminal-snr"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        train(host, tmp_path / "data", settings_of(settings, **wrong))
    assert not (tmp_path / "data").exists()


def test_a_job_leaves_a_card_with_its_last_preview(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    told, events = settings_of(settings, preview_every=10, steps=20), list[Event]()
    outcome = train(host, tmp_path, told, events.append)
    file = folders_under(tmp_path).cards / "zqx-cat.png"
    assert f"a card to share: {file}" in [event.text for event in events if isinstance(event, Message)]
    card = read_card(file.read_bytes(), file.name)
    assert torch.equal(card.embedding.vectors["clip_l"], vectors_of(outcome.embedding))
    assert card.embedding.metadata["job"] == outcome.job.id
    preview = Image.open(outcome.job.previews()[20][0]).resize((512, 512), Image.Resampling.LANCZOS)
    shown = np.asarray(Image.open(file).convert("RGB"), dtype=np.float32)
    edge = (shown.shape[1] - 512) // 2
    middle = np.asarray(preview, dtype=np.float32)[100:400, 100:400]
    assert np.abs(shown[116:416, edge + 100 : edge + 400] - middle).max() == 0


def test_no_card_is_worth_the_job(host: StandaloneHost, settings: dict[str, Any], tmp_path: Path) -> None:
    folders = folders_under(tmp_path / "other")
    folders.cards.parent.mkdir(parents=True)
    folders.cards.write_text("a file where the folder of cards should be")
    events: list[Event] = []
    outcome = train(host, tmp_path / "other", settings_of(settings, steps=2), events.append)
    assert outcome.status == "done" and outcome.embedding.is_file()
    assert any("the card was not made" in event.text for event in events if isinstance(event, Message))
    none = train(host, tmp_path / "none", settings_of(settings, steps=2, card=False))
    assert none.status == "done" and not folders_under(tmp_path / "none").cards.exists()


def test_a_pair_has_one_card_and_other_words_one_each(tmp_path: Path) -> None:
    """Of files as a job leaves them; previews show all words, one after the other."""
    folders = folders_under(tmp_path)
    for kind, name, cards in (
        ("dreamartist", "tom", {"tom": ("tom-neg", 0)}),
        ("ti", "ann, bob", {"ann": (None, 0), "bob": (None, 2)}),
    ):
        told = read_settings({"method": kind, "name": name, "preview_count": 2})
        job, files = Job.reserve(folders.jobs, "x"), {}
        for number in range(4):
            file = job.samples / f"step-000010-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (10 + 50 * number, 0, 0)).save(file)
        for product in kind_of(told).products(told):
            files[product] = folders.embeddings / f"{product.name}.safetensors"
            write_safetensors(Embedding(product.name, {"clip_l": torch.ones(1, 64)}), files[product])
        said = make_cards(job, told, files, 15, folders)
        assert said == [f"a card to share: {folders.cards / word}.png" for word in cards]
        for word, (partner, preview) in cards.items():
            file = folders.cards / f"{word}.png"
            card = read_card(file.read_bytes(), file.name)
            assert (card.negative and card.negative.name) == partner
            assert Image.open(file).getpixel((200, 200)) == (10 + 50 * preview, 0, 0)
