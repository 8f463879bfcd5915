"""Attention whose heads share keys, rotate, or multiply keys with values first."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import find_groups
from prunus.surgery import unsound_groups
from tests.graph.test_groups import members, reasons

WIDTH, HEADS, SIZE, TOKENS = 16, 4, 4, 5


class Attention(nn.Module):
    """Separate projections, `kv` heads of keys and values, and a function between them."""

    def __init__(self, what: Callable[..., Tensor], kv: int = HEADS) -> None:
        super().__init__()
        self.what, self.num_heads, self.num_kv_heads, self.size = what, HEADS, kv, SIZE
        self.q = nn.Linear(WIDTH, HEADS * SIZE)
        self.k, self.v = (nn.Linear(WIDTH, kv * SIZE) for _ in range(2))
        self.o = nn.Linear(HEADS * SIZE, WIDTH)
        angles = torch.arange(TOKENS)[:, None] * 0.3 ** torch.arange(SIZE // 2)
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))
        self.scale = nn.Parameter(torch.rand(SIZE) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        images, count, _ = x.shape
        q = self.q(x).view(images, count, self.num_heads, self.size).transpose(1, 2)
        k, v = (
            layer(x).view(images, count, self.num_kv_heads, self.size).transpose(1, 2)
            for layer in (self.k, self.v)
        )
        made = self.what(self, q, k, v)
        return self.o(made.transpose(1, 2).reshape(images, count, -1))


def network(*between: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    last = nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, 3)
    return nn.Sequential(nn.Linear(7, WIDTH), *between, *last).eval()


def half(x: Tensor) -> Tensor:
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat([-b, a], -1)


def rotated(self: Attention, *parts: Tensor) -> list[Tensor]:
    return [x * self.cos + half(x) * self.sin for x in parts]


def complex_(self: Attention, *parts: Tensor) -> list[Tensor]:
    pairs = [torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) for x in parts]
    return [torch.view_as_real(x * self.turns).flatten(3) for x in pairs]


def interleaved(self: Attention, *parts: Tensor) -> list[Tensor]:
    made = []
    for x in parts:
        a, b, c, s = x[..., ::2], x[..., 1::2], self.cos[:, ::2], self.sin[:, ::2]
        made.append(torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2))
    return made


def scaled(self: Attention, *parts: Tensor) -> list[Tensor]:
    return [x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1) * self.scale for x in parts]


def repeat_kv(x: Tensor, times: int) -> Tensor:
    images, heads, count, size = x.shape
    wide = x[:, :, None].expand(images, heads, times, count, size)
    return wide.reshape(images, heads * times, count, size)


def fused(_: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def causal(_: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, is_causal=True)


def repeated(_: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(2, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def expanded(_: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = repeat_kv(k, 2), repeat_kv(v, 2)
    return (q @ k.transpose(2, 3) * 0.5).softmax(-1) @ v


@pytest.mark.parametrize("turn", [None, rotated, complex_, interleaved, scaled])
@pytest.mark.parametrize("attend", [fused, causal, repeated, expanded])
def test_a_head_of_keys_is_a_unit_with_all_that_read_it(
    attend: Callable[..., Tensor], turn: Callable[..., list[Tensor]] | None
) -> None:
    def what(self: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(self, *((q, k) if turn is None else turn(self, q, k)), v)

    model = network(Attention(what, kv=2))
    x = torch.randn(2, TOKENS, 7)
    groups = find_groups(model, x, inputs=False)
    assert members(groups)["1.q"] == (
        "1.q.out 1.k.out 1.v.out 1.o.in 1:num_heads.out 1:num_kv_heads.out"
    )
    assert groups["1.q"].units == 2
    assert [m.index.shape[1] for m in groups["1.q"].members[:3]] == [2 * SIZE, SIZE, SIZE]
    assert list(groups) == ["0", "1.q", "1.o", "2"]
    assert unsound_groups(groups, x) == {}


def test_heads_that_share_their_keys_and_values_are_units() -> None:
    model = network(Attention(fused, kv=1))
    x = torch.randn(2, TOKENS, 7)
    groups = find_groups(model, x, inputs=False)
    assert members(groups)["1.q"] == "1.q.out 1.o.in 1:num_heads.out"
    assert groups["1.q"].units == HEADS
    found = reasons(groups)
    assert "reads all of it in every head" in found["1.k"]
    assert "puts it on one axis with heads that are removed" in found["1.v"]
    assert unsound_groups(groups, x) == {}


def linear(_: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(2).unsqueeze(-1) + 1e-6)


def summed(_: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.relu(), k.relu(), F.pad(v, (0, 1), value=1.0)
    made = q @ (k.transpose(-1, -2) @ v)
    return made[..., :-1] / (made[..., -1:] + 1e-6)


def einsum(_: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = q.softmax(-1), k.softmax(-2)
    return torch.einsum("bhnd,bhde->bhne", q, torch.einsum("bhnd,bhne->bhde", k, v))


def over_channels(_: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = (F.normalize(x, dim=-2).transpose(-1, -2) for x in (q, k))
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v.transpose(-1, -2)).transpose(-1, -2)


@pytest.mark.parametrize("what", [linear, summed, einsum, over_channels])
def test_linear_attention_has_heads(what: Callable[..., Tensor]) -> None:
    model = network(Attention(what))
    x = torch.randn(2, TOKENS, 7)
    groups = find_groups(model, x, inputs=False)
    assert groups["1.q"].units == HEADS
    assert members(groups)["1.q"].startswith("1.q.out 1.k.out 1.v.out 1.o.in")
    assert list(reasons(groups)) == ["4"]
    assert unsound_groups(groups, x) == {}


class Cached(Attention):
    """Keys and values are returned."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), self.k(x)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(7, WIDTH), Cached(fused, 2)
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(x)
        y, kept = self.attend(x)
        return self.head(x + y + self.down(self.up(x + y).relu())), kept


def test_what_is_not_in_a_returned_cache_is_pruned() -> None:
    torch.manual_seed(0)
    groups = find_groups(Decoder().eval(), torch.randn(2, TOKENS, 7), inputs=False)
    assert list(groups) == ["embed", "up"]
    assert reasons(groups)["attend.k"] == "its outputs are the network's outputs"


class Mixer(nn.Module):
    """Tokens are mixed by convolutions with one tap along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, WIDTH)
        self.up, self.down = nn.Conv1d(TOKENS, 6, 1), nn.Conv1d(6, TOKENS, 1)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head((x + self.down(self.up(x).relu())).mean(1))


def test_a_convolution_over_tokens_keeps_channels_apart() -> None:
    torch.manual_seed(0)
    model, x = Mixer().eval(), torch.randn(2, TOKENS, 7)
    groups = find_groups(model, x, inputs=False)
    assert members(groups) == {"embed": "embed.out head.in", "up": "up.out down.in"}
    assert unsound_groups(groups, x) == {}
