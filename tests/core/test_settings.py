from dataclasses import dataclass
from typing import Any

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.core.settings import as_dict, build, option, options_of


@dataclass(frozen=True)
class Sample:
    steps: int = option(10, "How many.", group="a", low=1, high=100, unit="steps")
    rate: float = option(0.5, "How fast.", group="a", low=0)
    kind: str = option("text", "Which.", group="b", choices=("text", "zero"))
    flip: bool = option(False, "Mirror.", group="b")


def test_defaults_and_round_trip() -> None:
    settings = build(Sample, {"steps": 5, "rate": 2})
    assert settings == Sample(steps=5, rate=2.0)
    assert build(Sample, as_dict(settings)) == settings


def test_every_field_tells_of_itself() -> None:
    field, told, plain = options_of(Sample)["steps"]
    assert (field.default, told.unit, told.low, plain) == (10, "steps", 1, int)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stepz": 3}, "unknown setting stepz"),
        ({"steps": 0}, "of at least 1 and of at most 100 steps"),
        ({"steps": 101}, "at most 100"),
        ({"steps": 1.5}, "whole number"),
        ({"steps": True}, "whole number"),
        ({"steps": "3"}, "whole number"),
        ({"rate": -0.1}, "at least 0"),
        ({"rate": float("nan")}, "at least 0"),
        ({"kind": "best"}, "one of text, zero"),
        ({"flip": "yes"}, "true or false"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        build(Sample, values)
