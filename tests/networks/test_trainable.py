"""Updates that learn: their start, what takes part in a step, what is left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_ti.networks.algebra import LowRank
from lib_ti.networks.layers import Layer
from lib_ti.networks.names import Kind
from lib_ti.networks.trainable import Dropout, Learning, Size, Turn, rank_of_step

RANK, ALPHA = 8, 4.0
NOTHING = Dropout()
MODULES = {
    "linear": lambda: nn.Linear(6, 10),
    "conv1x1": lambda: nn.Conv2d(6, 10, 1),
    "conv": lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1),
}
INPUTS = {"linear": (4, 5, 6), "conv1x1": (4, 6, 7, 7), "conv": (4, 6, 7, 7)}


def layer_of(kind: Kind, name: str = "lora_unet_x", dtype: torch.dtype = torch.float32) -> Layer:
    torch.manual_seed(0)
    module = MODULES[kind]().to(dtype).requires_grad_(False)
    return Layer(name=name, part="unet", kind=kind, scope="lierla", block=1, module=module)


def begun(layer: Layer, turn: Turn | None = None, dropout: Dropout = NOTHING, seed: int = 1) -> Learning:
    return Learning.begin(layer, Size(RANK, ALPHA), seed, turn or Turn(), dropout)


def taught(layer: Layer, turn: Turn | None = None, dropout: Dropout = NOTHING) -> Learning:
    """With something in both matrices."""
    update = begun(layer, turn, dropout)
    with torch.no_grad():
        update.up.normal_(generator=torch.Generator().manual_seed(3))
    return update


def x_of(kind: Kind) -> torch.Tensor:
    return torch.randn(INPUTS[kind], generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_begins_as_the_identity_in_float32(kind: Kind, dtype: torch.dtype) -> None:
    layer = layer_of(kind, dtype=dtype)
    update = begun(layer)
    assert update.down.dtype == update.up.dtype == torch.float32
    assert update.fits(layer.weight.shape) and not update.delta(layer.weight).any()
    bound = update.down[0].numel() ** -0.5
    assert 0.9 * bound < float(update.down.detach().abs().max()) <= bound
    assert torch.equal(update.down, begun(layer).down)
    assert not torch.equal(update.down, begun(layer, seed=2).down)
    assert not torch.equal(update.down, begun(layer_of(kind, "lora_unet_y")).down)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("turn", [Turn(), Turn(rank=4), Turn(rank=6, learned=2)])
def test_weight_and_answer_are_changed_alike_at_every_rank(kind: Kind, turn: Turn) -> None:
    layer, x = layer_of(kind), x_of(kind)
    update = taught(layer, turn)
    weight, module = layer.weight, layer.module
    answer = nn.functional.linear if kind == "linear" else module._conv_forward
    changed = answer(x, weight + update.delta(weight), module.bias) - answer(x, weight, module.bias)
    torch.testing.assert_close(update.forward(x, module), changed, rtol=1e-4, atol=1e-5)


def test_a_rank_of_dylora_is_what_an_extracted_file_of_that_rank_does() -> None:
    """arXiv 2210.07558, section 3.1; the file's alpha stays, so that its scale is alpha / rank."""
    layer, x, turn = layer_of("linear"), x_of("linear"), Turn()
    update = taught(layer, turn)
    for rank in range(1, RANK + 1):
        turn.rank = rank
        extracted = LowRank(down=update.down[:rank], up=update.up[:, :rank], alpha=ALPHA)
        assert torch.equal(update.forward(x, layer.module), extracted.forward(x, layer.module))


@pytest.mark.parametrize(("learned", "first"), [(None, 0), (2, 4)])
def test_only_the_rows_of_the_turn_learn(learned: int | None, first: int) -> None:
    layer = layer_of("conv")
    update = taught(layer, Turn(rank=6, learned=learned))
    update.forward(x_of("conv"), layer.module).square().sum().backward()
    assert update.down.grad is not None and update.up.grad is not None
    rows = update.down.grad.flatten(1).abs().amax(1) > 0
    columns = update.up.grad.flatten(1).abs().amax(0) > 0
    assert rows.tolist() == columns.tolist() == [first <= row < 6 for row in range(RANK)]


@pytest.mark.parametrize("dropout", [NOTHING, Dropout(0.1, 0.1, 0.1)])
@pytest.mark.parametrize("kind", MODULES)
def test_a_model_in_half_precision_teaches_float32(kind: Kind, dropout: Dropout) -> None:
    layer = layer_of(kind, dtype=torch.bfloat16)
    update = taught(layer, Turn(place=(1, 1, 0)), dropout)
    answer = update.forward(x_of(kind).bfloat16(), layer.module)
    answer.float().square().sum().backward()
    assert answer.dtype == torch.bfloat16
    for matrix in (update.down, update.up):
        assert matrix.grad is not None and matrix.grad.dtype == torch.float32 and matrix.grad.any()


def test_who_records_no_gradient_gets_the_whole_network() -> None:
    layer, x = layer_of("linear"), x_of("linear")
    update = taught(layer, Turn(rank=2, place=(1, 1, 0)), Dropout(0.5, 0.5, 0.5))
    whole = LowRank(down=update.down, up=update.up, alpha=ALPHA)
    with torch.no_grad():
        assert torch.equal(update.forward(x, layer.module), whole.forward(x, layer.module))
        assert torch.equal(update.delta(layer.weight), whole.delta(layer.weight))


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("dropout", [Dropout(numbers=0.3), Dropout(rows=0.3), Dropout(layers=0.3)])
def test_what_is_left_out_comes_from_the_place_alone(kind: Kind, dropout: Dropout) -> None:
    """So that a step that is computed again leaves out the same; on the average nothing is missing."""
    layer, x, turn = layer_of(kind), x_of(kind), Turn(place=(1, 1, 0))
    update = taught(layer, turn, dropout)
    assert torch.equal(update.forward(x, layer.module), update.forward(x, layer.module))
    answers = []
    for step in range(400):
        turn.place = (1, step, 0)
        answers.append(update.forward(x, layer.module).detach())
    assert not all(torch.equal(answer, answers[0]) for answer in answers)
    turn.place = ()
    expected = update.forward(x, layer.module).detach() * (1 - dropout.layers)
    error = (torch.stack(answers).mean(0) - expected).norm() / expected.norm()
    assert float(error) < 0.1


def test_a_row_is_left_out_of_a_whole_sample() -> None:
    layer = layer_of("conv1x1")
    update = taught(layer, Turn(place=(1, 1, 0)), Dropout(rows=0.5))
    with torch.no_grad():
        update.up[RANK:] = 0
        update.up[:RANK, :, 0, 0] = torch.eye(RANK)  # the answer is what is between the two matrices
    hidden = update.forward(x_of("conv1x1"), layer.module)[:, :RANK].flatten(2)
    gone = (hidden == 0).all(2)
    assert torch.equal(gone, (hidden == 0).any(2)) and 0 < int(gone.sum()) < gone.numel()
    assert len({tuple(row) for row in gone.tolist()}) > 1  # samples differ


def test_a_weight_leaves_rows_out_too() -> None:
    layer, turn = layer_of("linear"), Turn()
    update = taught(layer, turn, Dropout(rows=0.8))
    whole = int(torch.linalg.matrix_rank(update.delta(layer.weight)))
    turn.place = (1, 1, 0)
    assert 0 < int(torch.linalg.matrix_rank(update.delta(layer.weight))) < whole


def test_a_weight_leaves_out_the_layers_that_an_answer_leaves_out() -> None:
    layer, turn, x = layer_of("linear"), Turn(), x_of("linear")
    update = taught(layer, turn, Dropout(layers=0.5))
    whole, gone = update.delta(layer.weight), []
    for step in range(20):
        turn.place = (1, step, 0)
        delta, answer = update.delta(layer.weight), update.forward(x, layer.module)
        gone.append(not delta.any())
        assert gone[-1] == (not answer.any()) and (gone[-1] or torch.equal(delta, whole))
    assert 0 < sum(gone) < 20


@pytest.mark.parametrize("kind", MODULES)
def test_a_norm_above_the_limit_is_scaled_down_to_it(kind: Kind) -> None:
    layer = layer_of(kind)
    update = taught(layer)
    before = update.delta(layer.weight)
    norm = before.norm().item()
    update.limit_norm(norm * 1.01)
    torch.testing.assert_close(update.delta(layer.weight), before, rtol=1e-6, atol=1e-7)
    update.limit_norm(norm / 3)
    torch.testing.assert_close(update.delta(layer.weight), before / 3, rtol=1e-4, atol=1e-6)
    fresh = begun(layer)
    fresh.limit_norm(0.1)
    assert torch.equal(fresh.down, begun(layer).down)


def test_every_rank_has_its_turn() -> None:
    ranks = [rank_of_step(1, step, 16, 4) for step in range(1, 401)]
    counts = [ranks.count(rank) for rank in (4, 8, 12, 16)]
    assert sum(counts) == 400 and min(counts) > 70
    assert ranks[:50] == [rank_of_step(1, step, 16, 4) for step in range(1, 51)]
    assert ranks[:50] != [rank_of_step(2, step, 16, 4) for step in range(1, 51)]
