"""Concatenations with tokens, copies into slices, and padding."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import find_groups
from prunus.surgery import unsound_groups
from tests.graph.test_engine import Do, Image
from tests.graph.test_groups import members, reasons

WIDTH, TOKENS = 12, 4


class Tokens(nn.Module):
    """Patches, with positions and a class token in several orders."""

    def __init__(self, join: Callable[["Tokens", Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.join = join
        self.embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.token, self.moved = (nn.Parameter(torch.randn(1, 1, WIDTH)) for _ in range(2))
        self.registers = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.register_buffer("waves", torch.randn(1, TOKENS, WIDTH))
        self.table = nn.Embedding(TOKENS, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.join(self, self.token.expand(len(x), -1, -1), x).relu()[:, 0])


def before(self: Tokens, token: Tensor, x: Tensor) -> Tensor:
    return torch.cat([token, x + self.positions], 1)


def registers(self: Tokens, token: Tensor, x: Tensor) -> Tensor:
    return torch.cat([token, self.registers.expand(len(x), -1, -1), x + self.positions], 1)


def both(self: Tokens, token: Tensor, x: Tensor) -> Tensor:
    return torch.cat([token + self.moved, x + self.positions], 1)


def apart(self: Tokens, token: Tensor, x: Tensor) -> Tensor:
    return torch.cat([token, x], 1) + torch.cat([self.moved, self.positions], 1)


def at_the_end(self: Tokens, token: Tensor, x: Tensor) -> Tensor:
    return torch.cat([x + self.waves, self.registers.repeat(len(x), 1, 1)], 1)


def looked_up(self: Tokens, token: Tensor, x: Tensor) -> Tensor:
    return torch.cat([token, x + self.table(torch.arange(x.shape[1]))], 1)


def zeros(self: Tokens, token: Tensor, x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(len(x), 1, x.shape[-1]), x + self.positions], 1)


@pytest.mark.parametrize(
    "join", [before, registers, both, apart, at_the_end, looked_up, zeros], ids=lambda f: f.__name__
)
def test_tokens_and_positions_have_the_channels_of_the_patches(
    join: Callable[[Tokens, Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = Tokens(join).eval()
    x = torch.randn(2, 3, 8, 8)
    groups = find_groups(model, x)
    assert groups["embed"].units == WIDTH
    assert set(reasons(groups)) == {"head"}
    assert unsound_groups(groups, x) == {}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate", "zeros"])
def test_a_padded_convolution_reads_channels(mode: str, axes: int) -> None:
    torch.manual_seed(0)
    kind = getattr(nn, f"Conv{axes}d")
    one, other = (kind(i, o, 3, padding=1, padding_mode=mode) for i, o in ((3, 8), (8, 4)))
    model = nn.Sequential(one, nn.ReLU(), other, nn.ReLU(), kind(4, 2, 1)).eval()
    x = torch.randn(2, 3, *(5,) * axes)
    groups = find_groups(model, x)
    assert members(groups) == {"0": "0.out 2.in", "2": "2.out 4.in"}
    assert unsound_groups(groups, x) == {}


def framed(x: Tensor) -> Tensor:
    y = x.new_zeros(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2)
    y[:, :, 1:-1, 1:-1] = x
    return y


def halves_written(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    y = torch.empty(len(x), a.shape[1] + b.shape[1], *x.shape[2:])
    y[:, : a.shape[1]], y[:, a.shape[1] :] = a, b
    return y


@pytest.mark.parametrize(
    ("what", "units"),
    [
        (framed, 8),
        (halves_written, 4),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), 8),
        (lambda x: x * torch.zeros(1, x.shape[1], 1, 1), 8),
    ],
)
def test_what_is_written_into_a_fresh_tensor_keeps_its_channels(what: object, units: int) -> None:
    model = Image(Do(what)).eval()
    x = torch.randn(2, 3, 8, 8)
    groups = find_groups(model, x)
    assert groups["stem"].units == units
    assert unsound_groups(groups, x) == {}


def first_is_one(x: Tensor) -> Tensor:
    weight = torch.zeros(x.shape[1])
    weight[0] = 1
    return x * weight.view(-1, 1, 1)


def test_numbers_at_fixed_places_stay() -> None:
    groups = find_groups(Image(Do(first_is_one)).eval(), torch.randn(2, 3, 8, 8))
    assert members(groups) == {"next": "next.out head.in"}
    assert "writes numbers at fixed places" in reasons(groups)["stem"]


class Cell(nn.Module):
    """A convolutional LSTM's step."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(2 + hidden, 4 * hidden, 3, padding=1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Recurrent(nn.Module):
    """Two steps from a state of zeros, whose size is a number of the cell."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.cell, self.head = Cell(hidden), nn.Conv2d(hidden, 3, 1)

    def size(self) -> int:
        return self.cell.hidden

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.size(), *x.shape[2:])
        c = torch.zeros(len(x), self.size(), *x.shape[2:])
        for part in x.chunk(2, 1):
            h, c = self.cell(part, h, c)
        return self.head(h)


class Literal(Recurrent):
    def size(self) -> int:
        return 6


def test_a_state_of_zeros_follows_the_number_that_its_size_is_taken_from() -> None:
    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(2, 4, 5, 5)
    groups = find_groups(model, x)
    assert members(groups) == {"cell.gates": "cell.gates.in cell.gates.out head.in cell:hidden.out"}
    assert unsound_groups(groups, x) == {}
    literal = find_groups(Literal().eval(), x)
    assert "fails when it is cut" in unsound_groups(literal, x)["cell.gates"]


class Parts(nn.Module):
    """Equal parts, taken by slices whose bounds come from a number, a shape or nowhere."""

    def __init__(self, bound: Callable[["Parts", Tensor], int]) -> None:
        super().__init__()
        self.bound, self.half = bound, 4
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        half = self.bound(self, x)
        return self.b(x[:, :half] * x[:, half:].sigmoid())


@pytest.mark.parametrize(
    ("bound", "number", "sound"),
    [
        (lambda self, x: self.half, " :half.out", True),
        (lambda self, x: x.shape[1] // 2, "", True),
        (lambda self, x: 4, "", False),
    ],
)
def test_equal_parts_taken_by_slices(
    bound: Callable[[Parts, Tensor], int], number: str, sound: bool
) -> None:
    torch.manual_seed(0)
    model, x = Parts(bound).eval(), torch.randn(2, 3, 5, 5)
    groups = find_groups(model, x)
    assert members(groups) == {"a": f"a.out b.in{number}"}
    assert groups["a"].producers[0].index.tolist() == [[i, i + 4] for i in range(4)]
    assert (not unsound_groups(groups, x)) is sound


def test_unequal_parts_taken_by_slices_stay() -> None:
    def what(x: Tensor) -> Tensor:
        return torch.cat([x[:, :4] * x[:, 4:6].repeat(1, 2, 1, 1), x[:, 6:].repeat(1, 2, 1, 1)], 1)

    groups = find_groups(Image(Do(what)).eval(), torch.randn(2, 3, 8, 8))
    assert "a slice by fixed numbers" in reasons(groups)["stem"]
