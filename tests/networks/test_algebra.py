"""Every algorithm on every kind of layer: the change of the weight and that of the answer are one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.networks.algebra import LowRank, Update, moved, truncated
from lib_ti.networks.reading import read_update

M, N, R = 12, 8, 3

LAYERS = {
    "linear": lambda: nn.Linear(N, M),
    "linear without bias": lambda: nn.Linear(N, M, bias=False),
    "conv 1x1": lambda: nn.Conv2d(N, M, 1),
    "conv 3x3": lambda: nn.Conv2d(N, M, 3, padding=1),
    "conv 3x3 strided": lambda: nn.Conv2d(N, M, 3, stride=2, padding=1),
    "conv 3x3 tiling": lambda: nn.Conv2d(N, M, 3, padding=1, padding_mode="circular"),
    "layer norm": lambda: nn.LayerNorm(N),
    "group norm": lambda: nn.GroupNorm(4, N),
}


def kernel_of(layer: nn.Module) -> tuple[int, ...]:
    return tuple(layer.weight.shape[2:])


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.5


def lora(layer: nn.Module) -> dict[str, torch.Tensor]:
    kernel = kernel_of(layer)
    ones = (1,) * len(kernel)
    return {
        "lora_down.weight": rand(R, N, *kernel),
        "lora_up.weight": rand(M, R, *ones),
        "alpha": torch.tensor(1.5),
    }


def tucker(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {
        "lora_down.weight": rand(R, N, 1, 1),
        "lora_mid.weight": rand(R, R, *kernel_of(layer)),
        "lora_up.weight": rand(M, R, 1, 1),
        "alpha": torch.tensor(1.5),
    }


def loha(layer: nn.Module) -> dict[str, torch.Tensor]:
    columns = layer.weight[0].numel()
    shapes = {"hada_w1_a": (M, R), "hada_w1_b": (R, columns), "hada_w2_a": (M, R), "hada_w2_b": (R, columns)}
    return {key: rand(*shape) for key, shape in shapes.items()} | {"alpha": torch.tensor(1.5)}


def loha_tucker(layer: nn.Module) -> dict[str, torch.Tensor]:
    kernel = kernel_of(layer)
    tensors = {"alpha": torch.tensor(1.5)}
    for part in "12":
        tensors[f"hada_t{part}"] = rand(R, R, *kernel)
        tensors[f"hada_w{part}_a"], tensors[f"hada_w{part}_b"] = rand(R, M), rand(R, N)
    return tensors


def lokr(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {"lokr_w1": rand(3, 2), "lokr_w2": rand(4, 4, *kernel_of(layer)), "alpha": torch.tensor(1.5)}


def lokr_second(layer: nn.Module) -> dict[str, torch.Tensor]:
    columns = 4 * kernel_of(layer)[0] ** 2 if kernel_of(layer) else 4
    return {
        "lokr_w1": rand(3, 2),
        "lokr_w2_a": rand(4, R),
        "lokr_w2_b": rand(R, columns),
        "alpha": torch.tensor(1.5),
    }


def lokr_both(layer: nn.Module) -> dict[str, torch.Tensor]:
    second = lokr_second(layer)
    del second["lokr_w1"]
    return second | {"lokr_w1_a": rand(3, R), "lokr_w1_b": rand(R, 2)}


def lokr_tucker(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {
        "lokr_w1": rand(3, 2),
        "lokr_t2": rand(R, R, *kernel_of(layer)),
        "lokr_w2_a": rand(R, 4),
        "lokr_w2_b": rand(R, 4),
        "alpha": torch.tensor(1.5),
    }


def ia3_in(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {"weight": rand(1, N), "on_input": torch.tensor(True)}


def ia3_out(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {"weight": rand(M, 1), "on_input": torch.tensor(False)}


def full(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {"diff": rand(*layer.weight.shape), "diff_b": rand(M)}


def norm(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {"w_norm": rand(N), "b_norm": rand(N)}


def dora_rows(layer: nn.Module) -> dict[str, torch.Tensor]:
    return lora(layer) | {"dora_scale": rand(M, *(1 for _ in layer.weight.shape[1:])).abs()}


def dora_columns(layer: nn.Module) -> dict[str, torch.Tensor]:
    return lora(layer) | {"dora_scale": rand(1, N, *(1 for _ in kernel_of(layer))).abs()}


def dora_of_lokr(layer: nn.Module) -> dict[str, torch.Tensor]:
    return lokr(layer) | {"dora_scale": rand(M, *(1 for _ in layer.weight.shape[1:])).abs()}


ALGORITHMS = [
    lora, loha, lokr, lokr_second, lokr_both, ia3_in, ia3_out, full, dora_rows, dora_columns, dora_of_lokr,
]  # fmt: skip
TUCKER = [tucker, loha_tucker, lokr_tucker]
CASES = [
    *((kind, algorithm) for kind in LAYERS if "norm" not in kind for algorithm in ALGORITHMS),
    *((kind, algorithm) for kind in LAYERS if kind.startswith("conv") for algorithm in TUCKER),
    *((kind, norm) for kind in ("layer norm", "group norm")),
]
IDS = [f"{algorithm.__name__} on {kind}" for kind, algorithm in CASES]


def new_layer(kind: str) -> nn.Module:
    torch.manual_seed(1)
    layer = LAYERS[kind]()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def new_input(layer: nn.Module) -> torch.Tensor:
    return torch.randn(2, N, 7, 6) if isinstance(layer, nn.Conv2d | nn.GroupNorm) else torch.randn(2, 5, N)


def changed(layer: nn.Module, update: Update, dtype: torch.dtype) -> None:
    """Write the change into the weights."""
    layer.weight.copy_((layer.weight.float() + update.delta(layer.weight)).to(dtype))
    if update.bias is not None:
        bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.float()
        layer.bias = nn.Parameter((bias + update.bias.float()).to(dtype), requires_grad=False)


@pytest.mark.parametrize(("kind", "algorithm"), CASES, ids=IDS)
def test_the_changed_weight_answers_as_the_changed_answer(kind, algorithm):
    layer = new_layer(kind)
    update, x = read_update(algorithm(layer)), new_input(layer)
    assert update.fits(layer.weight.shape)
    added = layer(x) + update.forward(x, layer)
    changed(layer, update, torch.float32)
    torch.testing.assert_close(added, layer(x), atol=2e-5, rtol=1e-5)
    assert (update.delta(layer.weight).abs() > 1e-3).any()


def has_half() -> bool:
    try:
        nn.functional.linear(torch.ones(1, 1).half(), torch.ones(1, 1).half())
    except RuntimeError:
        return False
    return True


HALF = pytest.mark.skipif(not has_half(), reason="torch before 2.2 has no float16 on a CPU")


@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=HALF), torch.bfloat16])
@pytest.mark.parametrize(("kind", "algorithm"), CASES, ids=IDS)
def test_half_precision_is_near(kind, algorithm, dtype):
    layer = new_layer(kind).to(dtype)
    update, x = read_update(algorithm(layer)), new_input(layer).to(dtype)
    update = moved(update, torch.device("cpu"), dtype)
    assert update.delta(layer.weight).dtype == torch.float32
    added = layer(x) + update.forward(x, layer)
    assert added.dtype == dtype
    exact = new_layer(kind).to(dtype).float()
    changed(exact, update, torch.float32)
    answer = exact(x.float())
    error = (added.float() - answer).abs().max() / answer.abs().max()
    assert error < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("algorithm", "zero"),
    [
        (lora, "lora_up.weight"),
        (tucker, "lora_up.weight"),
        (loha, "hada_w2_a"),
        (lokr, "lokr_w2"),
        (lokr_both, "lokr_w2_a"),
        (ia3_in, "weight"),
    ],
)
def test_zero_is_the_identity(algorithm, zero):
    layer = new_layer("conv 3x3")
    tensors = algorithm(layer)
    update = read_update({**tensors, zero: torch.zeros_like(tensors[zero])})
    assert torch.equal(update.delta(layer.weight), torch.zeros_like(layer.weight))


@pytest.mark.parametrize(("axis", "algorithm"), [(0, dora_rows), (1, dora_columns)])
def test_dora_of_nothing_with_the_weights_own_lengths_is_the_identity(axis, algorithm):
    layer = new_layer("conv 3x3")
    others = [dim for dim in range(4) if dim != axis]
    tensors = algorithm(layer) | {
        "dora_scale": torch.linalg.vector_norm(layer.weight, dim=others, keepdim=True)
    }
    tensors["lora_up.weight"] = torch.zeros_like(tensors["lora_up.weight"])
    assert torch.equal(read_update(tensors).delta(layer.weight), torch.zeros_like(layer.weight))


@pytest.mark.parametrize(("axis", "algorithm"), [(0, dora_rows), (1, dora_columns)])
def test_dora_gives_each_row_or_column_its_length(axis, algorithm):
    layer = new_layer("linear")
    tensors = algorithm(layer)
    result = layer.weight + read_update(tensors).delta(layer.weight)
    torch.testing.assert_close(result.norm(dim=1 - axis), tensors["dora_scale"].flatten())


def by_formula(tensors: dict[str, torch.Tensor], shape: torch.Size) -> torch.Tensor:
    """dW element by element, as LyCORIS' paper and documentation write it; scale alpha / r."""
    t = {key: tensor.double() for key, tensor in tensors.items()}
    if "lora_mid.weight" in t:
        up, mid, down = (t[f"lora_{part}.weight"] for part in ("up", "mid", "down"))
        return sum(
            up[:, a, 0, 0, None, None, None] * mid[a, b] * down[b, :, 0, 0, None, None]
            for a in range(R)
            for b in range(R)
        ) * (1.5 / R)
    if "hada_w1_a" in t:
        parts = []
        for part in "12":
            a, b = t[f"hada_w{part}_a"], t[f"hada_w{part}_b"]
            core = t.get(f"hada_t{part}")
            parts.append(tucker_sum(core, a, b) if core is not None else (a @ b).reshape(shape))
        return parts[0] * parts[1] * (1.5 / R)
    first = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    second = t.get("lokr_w2")
    if "lokr_t2" in t:
        second = tucker_sum(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    elif second is None:
        second = (t["lokr_w2_a"] @ t["lokr_w2_b"]).reshape(4, 4, *shape[2:])
    blocks = [torch.cat([value * second for value in row], dim=1) for row in first]
    whole = "lokr_w1" in t and "lokr_w2" in t
    return torch.cat(blocks) * (1 if whole else 1.5 / R)


def tucker_sum(core: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return sum(
        core[r, s] * a[r, :, None, None, None] * b[s, None, :, None, None] for r in range(R) for s in range(R)
    )


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        *(
            (kind, algorithm)
            for kind in ("linear", "conv 3x3")
            for algorithm in (loha, lokr, lokr_second, lokr_both)
        ),
        *(("conv 3x3", algorithm) for algorithm in TUCKER),
    ],
)
def test_the_change_is_that_of_the_formula(kind, algorithm):
    layer = new_layer(kind)
    tensors = algorithm(layer)
    expected = by_formula(tensors, layer.weight.shape).float()
    torch.testing.assert_close(read_update(tensors).delta(layer.weight), expected)


def test_alpha_over_rank_scales():
    layer = new_layer("linear")
    tensors = lora(layer)
    product = tensors["lora_up.weight"] @ tensors["lora_down.weight"]
    for alpha, scale in ((torch.tensor(6.0), 2), (torch.tensor([R / 2.0]), 0.5), (torch.tensor(0.0), 1)):
        delta = read_update({**tensors, "alpha": alpha}).delta(layer.weight)
        torch.testing.assert_close(delta, product * scale)
    del tensors["alpha"]
    torch.testing.assert_close(read_update(tensors).delta(layer.weight), product)
    torch.testing.assert_close(
        read_update({**tensors, "scalar": torch.tensor(0.25)}).delta(layer.weight), product / 4
    )
    torch.testing.assert_close(
        read_update({**tensors, "alpha": torch.tensor(9.0), "scale": torch.tensor(2.0)}).delta(layer.weight),
        product * 2,
    )


def test_lokr_of_whole_matrices_knows_no_alpha():
    layer = new_layer("linear")
    tensors = lokr(layer)
    product = torch.kron(tensors["lokr_w1"], tensors["lokr_w2"])
    torch.testing.assert_close(read_update(tensors).delta(layer.weight), product)


@pytest.mark.parametrize("kind", ["linear", "conv 1x1"])
def test_factors_of_a_linear_layer_and_of_a_1x1_convolution_are_one(kind):
    """SD2's projections are linear in some programs and convolutions in others."""
    layer, x = new_layer(kind), new_input(new_layer(kind))
    tensors = lora(layer)
    other = {
        key: value if value.ndim == 0 else value.flatten(1) if value.ndim == 4 else value[..., None, None]
        for key, value in tensors.items()
    }
    for method in ("delta", "forward"):
        args = (layer.weight,) if method == "delta" else (x, layer)
        torch.testing.assert_close(
            getattr(read_update(tensors), method)(*args), getattr(read_update(other), method)(*args)
        )


def test_a_dylora_is_truncated_at_full_strength():
    layer = new_layer("linear")
    tensors = lora(layer)
    down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
    update = read_update(tensors)
    delta = truncated(update, 2).delta(layer.weight)
    assert torch.equal(delta, (up[:, :2] @ down[:2]) * (1.5 / 2))
    extracted = {"lora_down.weight": down[:2], "lora_up.weight": up[:, :2], "alpha": tensors["alpha"]}
    assert torch.equal(delta, read_update(extracted).delta(layer.weight))
    assert torch.equal(truncated(update, 99).delta(layer.weight), update.delta(layer.weight))
    with_lengths = read_update(dora_rows(layer))
    assert truncated(with_lengths, 2).rank == 2


def test_gradient_reaches_the_factors_on_both_ways():
    layer = new_layer("conv 3x3 strided")
    tensors = lora(layer)
    down, up = (tensors[key].requires_grad_() for key in ("lora_down.weight", "lora_up.weight"))
    update = LowRank(down=down, up=up, alpha=1.5)
    x = new_input(layer)
    through_answer = torch.autograd.grad(update.forward(x, layer).square().sum(), (down, up))
    weight = update.delta(layer.weight)
    through_weight = torch.autograd.grad(
        torch.nn.functional.conv2d(x, weight, None, 2, 1).square().sum(), (down, up)
    )
    for one, other in zip(through_answer, through_weight, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "conv 3x3"])
@pytest.mark.parametrize("algorithm", [lora, loha, lokr, lokr_both, ia3_in, ia3_out, full, dora_rows])
def test_another_shape_does_not_fit(algorithm, kind):
    layer = new_layer(kind)
    update = read_update(algorithm(layer))
    m, n, *kernel = layer.weight.shape
    assert not update.fits((m, n + 1, *kernel)) or not update.fits((m + 1, n, *kernel))
    assert not update.fits((m + 1, n + 1, *kernel))
    if algorithm not in (ia3_in, ia3_out):
        assert not update.fits((n, m, *kernel))


def test_what_is_not_understood_is_refused_by_name():
    layer = new_layer("linear")
    for tensors, named in (
        (lora(layer) | {"oft_blocks": rand(2, 2)}, "oft_blocks"),
        ({"a1.weight": rand(2, 2), "b1.weight": rand(2, 2)}, "a1.weight"),
        ({"lora_up.weight": rand(2, 2)}, "lora_up.weight"),
        ({"hada_w1_a": rand(2, 2)}, "hada_w1_b"),
        (lora(layer) | {"alpha": torch.tensor(float("nan"))}, "alpha"),
        (lora(layer) | {"alpha": rand(3)}, "alpha"),
        (lora(layer) | {"lora_up.weight": torch.ones(M, R, dtype=torch.int8)}, "lora_up.weight"),
        (lora(layer) | {"lora_up.weight": torch.zeros(M)}, r"\(12,\)"),
    ):
        with pytest.raises(BadInput, match=named):
            read_update(tensors)


def test_moving_reaches_every_tensor():
    update = read_update(dora_of_lokr(new_layer("conv 3x3")) | {"diff_b": rand(M)})
    there = moved(update, torch.device("meta"), torch.float16)
    assert there.delta(torch.empty(M, N, 3, 3, device="meta")).device.type == "meta"
    assert there.bias.dtype == there.magnitude.dtype == there.direction.first.a.dtype == torch.float16
