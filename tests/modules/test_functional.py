"""Parameters that a network multiplies by itself: they are layers."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.modules import functional_layer, module_at, set_functional_
from prunus.modules.uncalled import Calling, calling


class Raw(nn.Module):
    """`run` is the forward pass, over a weight of any shape and an optional second one."""

    def __init__(self, run, *sizes: int) -> None:
        super().__init__()
        self.run, self.w = run, nn.Parameter(torch.randn(*sizes))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.w)


PRODUCTS = {
    "x @ w": (lambda x, w: x @ w, (4, 6), "w.T"),
    "matmul": (torch.matmul, (4, 6), "w.T"),
    "mm": (torch.mm, (4, 6), "w.T"),
    "addmm": (lambda x, w: torch.addmm(torch.ones(6), x, w), (4, 6), "w.T"),
    "x @ w.T": (lambda x, w: x @ w.T, (6, 4), "w"),
    "x @ w.t()": (lambda x, w: x @ w.t(), (6, 4), "w"),
    "x @ w.transpose": (lambda x, w: x.matmul(w.transpose(0, 1)), (6, 4), "w"),
    "square": (lambda x, w: x @ w.T, (4, 4), "w"),
    "linear": (lambda x, w: F.linear(x, w, torch.ones(6)), (6, 4), "w"),
    "linear of w.T": (lambda x, w: F.linear(x, w.T), (4, 6), "w.T"),
    "linear, by name": (lambda x, w: F.linear(input=x, weight=w), (6, 4), "w"),
    "scaled": (lambda x, w: F.linear(x, w * 0.5), (6, 4), "w"),
    "scaled before": (lambda x, w: x @ (0.5 * w), (4, 6), "w.T"),
    "cast": (lambda x, w: (x.double() @ w.double()).float(), (4, 6), "w.T"),
    "conv1d": (lambda x, w: F.conv1d(x[..., None], w, padding=1), (6, 4, 3), "w"),
    "conv2d": (
        lambda x, w: F.conv2d(x.view(-1, 2, 2, 1), w, torch.ones(6), (1, 2), 1),
        (6, 2, 3, 3),
        "w",
    ),
    "twice": (lambda x, w: F.linear(x, w) + F.linear(2 * x, w), (6, 4), "w"),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_with_a_parameter_is_a_layer(name: str) -> None:
    run, sizes, expected = PRODUCTS[name]
    torch.manual_seed(0)
    model, x = Raw(run, *sizes), torch.randn(3, 4)
    with Calling(model) as calls:
        y = model(x)
    assert calls.functional == (expected,)
    assert not calls.found
    layer, made = functional_layer(model, expected), []
    handle = layer.register_forward_hook(lambda *call: made.append(call[-1].shape[1]))
    with calling(model, [expected]):
        torch.testing.assert_close(model(x), y)
    handle.remove()
    assert set(made) == {len(layer.weight)}


@pytest.mark.parametrize(
    ("run", "sizes", "function"),
    [
        (lambda x, w: F.linear(x, w) * w.sum(), (6, 4), "sum"),
        (lambda x, w: F.linear(x, w[:3]), (6, 4), "__getitem__"),
        (lambda x, w: F.linear(F.linear(x, w), w.T), (6, 4), "linear"),
        (lambda x, w: torch.einsum("bi,io->bo", x, w), (4, 6), "einsum"),
        (lambda x, w: (w @ x.T).T, (6, 4), "matmul"),
        (lambda x, w: F.linear(x, w.softmax(1)), (6, 4), "softmax"),
        (lambda x, w: F.conv2d(x.view(-1, 4, 1, 1), w, groups=2), (6, 2, 1, 1), "conv2d"),
        (lambda x, w: x[:, None] @ w, (3, 4, 6), "matmul"),
        (lambda x, w: torch.addmm(torch.ones(6), x, w, beta=2), (4, 6), "addmm"),
    ],
)
def test_a_parameter_that_is_read_otherwise_is_none(run, sizes, function: str) -> None:
    model = Raw(run, *sizes)
    with Calling(model) as calls:
        model(torch.randn(3, 4))
    assert not calls.functional
    assert calls.refused == {"w": function}


def test_its_size_and_type_may_be_asked_for() -> None:
    model = Raw(lambda x, w: (x.to(w) @ w).view(len(x), w.shape[1]).to(w.dtype), 4, 6)
    with Calling(model) as calls:
        model(torch.randn(3, 4))
    assert calls.functional == ("w.T",)


@pytest.mark.parametrize("name", ["w", "w.T"])
def test_it_shares_its_numbers_with_the_parameter(name: str) -> None:
    model = nn.ModuleDict({"part": Raw(lambda x, w: x @ w, 4, 6)})
    part = model["part"]
    layer = module_at(model, f"part.{name}")
    assert layer is module_at(model, f"part.{name}")
    assert layer.weight.shape == ((6, 4) if name == "w.T" else (4, 6))
    with torch.no_grad():
        layer.weight[1] = 0
    assert not (part.w[:, 1] if name == "w.T" else part.w[1]).any()
    part.w.data = torch.randn(2, 3).double()  # moved, cast or loaded since
    again = module_at(model, f"part.{name}")
    assert again is layer
    assert again.weight.data_ptr() == part.w.data_ptr()
    assert list(dict(model.named_parameters())) == ["part.w"]
    assert module_at(copy.deepcopy(model), f"part.{name}") is not layer


def test_a_cut_weight_goes_back_to_its_place() -> None:
    model = Raw(lambda x, w: x @ w, 4, 6).requires_grad_(False)
    layer = functional_layer(model, "w.T")
    expected = model.w[:, :2].clone()
    layer.weight = nn.Parameter(layer.weight[:2], requires_grad=False)
    set_functional_(model, "w.T", layer)
    assert torch.equal(model.w, expected)
    assert isinstance(model.w, nn.Parameter)
    assert not model.w.requires_grad
    assert functional_layer(model, "w.T").out_features == 2


@pytest.mark.parametrize("name", ["other", "w.other", "bias", "w.T.T"])
def test_what_is_no_parameter_is_no_layer(name: str) -> None:
    model = Raw(lambda x, w: x @ w, 4, 6)
    model.bias = nn.Parameter(torch.zeros(6))
    with pytest.raises(AttributeError):
        module_at(model, name)


def test_weights_of_layers_are_found_where_they_are_read() -> None:
    """With a bias of its own, a layer is called only where that is passed along."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.wide = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 5, bias=False)
            self.other = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
            x = F.conv2d(x, self.other.weight, self.other.bias, padding=1)  # not as it is set
            return x.mean((2, 3)) @ self.wide.weight.t()

    model, x = Network(), torch.randn(2, 2, 5, 5)
    with Calling(model) as calls:
        model(x)
    assert list(calls.found) == ["conv", "wide"]
