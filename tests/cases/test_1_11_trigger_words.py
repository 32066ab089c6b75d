"""Row 1.11: a network's trigger word is looked for in the prompts, as a word with vectors is."""

from __future__ import annotations

from typing import Any

import pytest

from lib_ti.workshop import Workshop
from tests.place import ended

NETWORK = {"method": "lora", "steps": 2, "preview_every": 0, "trigger_word": "my-star2"}


def test_one_that_stands_in_no_prompt_is_refused(workshop: Workshop, settings: dict[str, Any]) -> None:
    status = ended(workshop, workshop.train({**settings, **NETWORK}))
    assert status.status == "failed" and status.network is None
    assert "the trigger 'my-star2' occurs in none of the 1 prompts" in str(status.error)
    assert "put it in front of every caption (caption-prefix '[name],')" in str(status.error)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"caption_prefix": "[name],"}, "trigger 'my-star2' found in 1 of 1 prompts"),
        ({"template": "subject"}, "trigger 'my-star2' found in 16 of 16 prompts"),
        ({"caption_suffix": "MY-STAR2"}, "trigger 'my-star2' found in 1 of 1 prompts"),
    ],
)
def test_the_remedy_works(
    more: dict[str, str], said: str, workshop: Workshop, settings: dict[str, Any]
) -> None:
    status = ended(workshop, workshop.train({**settings, **NETWORK, **more}))
    assert status.status == "done" and said in status.messages


def test_without_a_trigger_word_nothing_is_looked_for(workshop: Workshop, settings: dict[str, Any]) -> None:
    status = ended(workshop, workshop.train({**settings, **NETWORK, "trigger_word": ""}))
    assert status.status == "done" and not any("found in" in message for message in status.messages)
