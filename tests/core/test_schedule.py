import pytest

from lib_ti.core.errors import BadInput
from lib_ti.core.schedule import parse_learning_rate


def test_a_plain_number_holds_for_ever() -> None:
    rate = parse_learning_rate("0.005")
    assert rate.at(1) == rate.at(10**6) == 0.005


def test_stages_end_at_their_step() -> None:
    rate = parse_learning_rate(" 0.005:100, 1e-3:1000 ,1e-4")
    assert [rate.at(step) for step in (1, 100, 101, 1000, 1001, 9999)] == [5e-3, 5e-3, 1e-3, 1e-3, 1e-4, 1e-4]


def test_the_last_rate_holds_past_its_step() -> None:
    assert parse_learning_rate("0.1:10, 0.01:20").at(500) == 0.01


@pytest.mark.parametrize("text", ["0.005", "0.005:100, 1e-3:1000, 1e-4", "0.1:10, 0.01:20"])
@pytest.mark.parametrize("steps", [1, 10, 57, 100, 101, 3000])
def test_travel_is_the_sum_of_the_rates(text: str, steps: int) -> None:
    rate = parse_learning_rate(text)
    assert rate.travel(steps) == pytest.approx(sum(rate.at(step) for step in range(1, steps + 1)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "0.1:",
        "0.1:ten",
        "-1",
        "0",
        "nan",
        "inf",
        "0.1, 0.2",
        "0.1:10, 0.2:10",
        "0.1:10, 0.2:5",
        "0.1:0, 1",
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match=r"0\.005:100"):
        parse_learning_rate(text)
