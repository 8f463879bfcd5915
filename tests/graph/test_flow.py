"""Groups do not depend on gradients: where nothing needs them, or the network switches them off."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from prunus.graph import find_groups
from prunus.surgery import unsound_groups
from tests.graph.test_groups import members, reasons


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(F.relu(self.a(x)))

    def rest(self, x: Tensor) -> Tensor:
        return self.h(F.relu(self.b(x)))


class Reentrant(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.rest, F.relu(self.a(x)), use_reentrant=True)


class Checkpointed(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.rest, F.relu(self.a(x)), use_reentrant=False)


class FrozenTrunk(Chain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.relu(self.a(x))
        return self.rest(x)


class InferenceTrunk(Chain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = F.relu(self.b(F.relu(self.a(x))))
        return self.h(x)


class Detached(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return self.rest(F.relu(self.a(x)).detach()).detach()


class InPlace(Chain):
    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean()
        made = super().forward(x)
        parts = torch.zeros_like(made)
        parts[:, :] = made
        return parts


class Bytes(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() / 255)


class Frozen(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


CHAINS = [
    Chain, Reentrant, Checkpointed, FrozenTrunk, InferenceTrunk, Detached, InPlace, Bytes, Frozen,
]  # fmt: skip


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", CHAINS)
def test_gradients_make_no_difference(
    kind: type[Chain], around: type[AbstractContextManager[None]]
) -> None:
    example = torch.zeros(1, 3, 9, 9, dtype=torch.uint8 if kind is Bytes else torch.float32)
    with around():
        groups = find_groups(kind(), example)
    assert list(groups) == ["a", "b"]
    assert groups.heads == ("h",)
    assert reasons(groups) == {"h": "its outputs are the network's outputs"}


def test_linear_layers_that_read_the_input_are_found_through_a_detached_part() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x.clone())).detach())

    assert list(find_groups(Network(), torch.zeros(1, 4))) == ["a.inputs", "a"]


def test_a_decision_is_not_a_source() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.up, self.head = nn.Linear(4, 3), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.up(x).relu()).index_select(0, self.router(x).argmax(1) * 0)

    assert find_groups(Routed(), torch.zeros(1, 4)).heads == ("head",)


class Projected(nn.Module):
    """The last product is with a parameter of the network, as in CLIP."""

    def __init__(self, what: Callable[[Tensor, Tensor], Tensor], *sizes: int) -> None:
        super().__init__()
        self.what = what
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.project = nn.Parameter(torch.randn(*sizes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.what(x if self.project.dim() > 2 else x.mean((2, 3)), self.project)


@pytest.mark.parametrize(
    ("what", "sizes", "read"),
    [
        (lambda x, w: x @ w, (8, 5), "project.T.in"),
        (F.linear, (5, 8), "project.in"),
        (lambda x, w: torch.einsum("bi,oi->bo", x, w), (5, 8), "project:1.out"),
        (F.conv2d, (5, 8, 1, 1), "project.in"),
    ],
)
def test_what_a_parameter_multiplies_is_no_output(
    what: Callable[[Tensor, Tensor], Tensor], sizes: tuple[int, ...], read: str
) -> None:
    torch.manual_seed(0)
    model, x = Projected(what, *sizes).eval(), torch.randn(2, 3, 9, 9)
    groups = find_groups(model, x)
    assert {name: set(text.split()) for name, text in members(groups).items()} == {
        "a": {"a.out", "b.in"},
        "b": {"b.out", read},
    }
    assert set(reasons(groups)) == set(groups.heads) <= {"project", "project.T"}
    assert unsound_groups(groups, x) == {}
