"""Couplings through what transformers and modern convolutional networks do."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import Groups, find_groups
from prunus.plan import plan_units
from prunus.plan.cost_tracker import CostTracker
from prunus.surgery import apply_, mask_, replay_, undo_
from tests.conftest import random_plan
from tests.graph.test_groups import members, reasons

WIDTH, HEADS, TOKENS = 12, 3, 5


class Block(nn.Module):
    """Tokens → attention → a linear head; attention's sizes follow from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attend(x)
        return self.head(x.mean(1))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2) * 0.5).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).flatten(2))


class Fused(Block):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class Biased(Block):
    """A bias per head, from a table: relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * TOKENS, HEADS))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        index = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS) + TOKENS
        bias = self.table[index.view(-1)].view(TOKENS, TOKENS, -1).permute(2, 0, 1)
        scores = (q @ k.transpose(-1, -2) + bias).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).flatten(2))


class Numbered(Block):
    """Sizes are attributes of the module, as in most libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size, self.inner = HEADS, WIDTH // HEADS, WIDTH

    def attend(self, x: Tensor) -> Tensor:
        images, count, _ = x.shape
        shape = (images, count, 3, self.heads, self.size)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(images, count, self.inner))


class SharedKeys(Block):
    """Multi-query attention: every head reads the same keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, WIDTH + 2 * WIDTH // HEADS)

    def attend(self, x: Tensor) -> Tensor:
        size = WIDTH // HEADS
        q, k, v = self.qkv(x).split((WIDTH, size, size), -1)
        q = q.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        scores = (q @ k.transpose(-1, -2)[:, None]).softmax(-1)
        return self.proj((scores @ v[:, None]).transpose(1, 2).flatten(2))


class Talking(Block):
    """Heads are mixed by a linear layer over heads (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = nn.Linear(HEADS, HEADS)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)
        scores = self.talk(scores).permute(0, 3, 1, 2).softmax(-1)
        return self.proj((scores @ v).transpose(1, 2).flatten(2))


def tokens() -> Tensor:
    return torch.randn(2, TOKENS, 7)


def check(model: nn.Module, groups: Groups, x: Tensor) -> None:
    """The cut network equals the masked network, for different numbers of units of every group."""
    for seed in range(3):
        plan = random_plan(groups, seed)
        with torch.no_grad():
            masked = mask_(copy.deepcopy(model), plan)(x)
            cut = replay_(copy.deepcopy(model), plan)(x)
        torch.testing.assert_close(cut, masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Block, Fused])
def test_heads_are_units(kind: type[nn.Module]) -> None:
    model = kind().eval()
    groups = find_groups(model, tokens())
    assert members(groups) == {
        "embed": "embed.out qkv.in proj.out head.in",
        "qkv": "qkv.out proj.in",
    }
    assert groups["qkv"].units == HEADS
    out, read = groups["qkv"].members
    size = WIDTH // HEADS
    assert sorted(out.index[1]) == [size * 1 + d + WIDTH * j for j in range(3) for d in range(size)]
    assert sorted(read.index[1]) == [size + d for d in range(size)]
    check(model, groups, tokens())


def test_a_bias_a_head_is_cut_with_the_head() -> None:
    model = Biased().eval()
    groups = find_groups(model, tokens())
    assert members(groups)["qkv"] == "qkv.out proj.in table:1.out"
    assert groups["qkv"].units == HEADS
    check(model, groups, tokens())


class Embedded(Block):
    """Positions and a class token, as raw parameters; a norm of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, TOKENS + 1, WIDTH))
        self.scale = nn.ParameterList([nn.Parameter(torch.randn(WIDTH))])
        self.register_buffer("shift", torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.scale[0] * self.attend(x - self.shift)
        return self.head(x[:, 0])


def test_the_width_of_an_embedding_is_a_group() -> None:
    model = Embedded().eval()
    groups = find_groups(model, tokens())
    assert members(groups)["embed"] == (
        "embed.out qkv.in proj.out head.in token:2.out positions:2.out shift:0.out scale.0:0.out"
    )
    check(model, groups, tokens())
    plan = random_plan(groups, 0)
    tracker = CostTracker(groups)
    for name, edit in plan.groups.items():
        tracker.remove(groups[name], edit.removed)
    cut = replay_(copy.deepcopy(model), plan)
    assert tracker.totals["params"] == sum(p.numel() for p in cut.parameters())
    assert tracker.totals["bytes"] == sum(t.nbytes for t in cut.state_dict().values())


def test_a_cut_parameter_comes_back() -> None:
    model = Embedded().eval()
    dense = copy.deepcopy(model.state_dict())
    groups = find_groups(model, tokens())
    receipt = apply_(model, random_plan(groups, 0), compensate="none")
    assert model.positions.shape[2] < WIDTH
    undo_(model, receipt)
    assert all(torch.equal(dense[n], t) for n, t in model.state_dict().items())


class Root(nn.Module):
    """A norm that reads its width from a number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalized_shape = (width,)
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight)


class OneHead(Block):
    """The dimensions of a single head are units, unless the scale counts them."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.scale = scale

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v, scale=self.scale)[:, 0])


def test_dimensions_of_a_single_head() -> None:
    model = OneHead(0.3).eval()
    groups = find_groups(model, tokens())
    assert groups["qkv"].units == WIDTH
    check(model, groups, tokens())
    counted = find_groups(OneHead(None).eval(), tokens())
    assert "depends on the dimensions of a head" in reasons(counted)["qkv"]


def test_numbers_of_a_module_follow() -> None:
    model = Numbered().eval()
    dense = copy.deepcopy(model.state_dict())
    groups = find_groups(model, tokens())
    assert members(groups)["qkv"] == "qkv.out proj.in :heads.out :inner.out"
    check(model, groups, tokens())
    receipt = apply_(model, plan_units(groups, {"qkv": [1]}), compensate="none")
    assert (model.heads, model.size, model.inner) == (HEADS - 1, 4, WIDTH - 4)
    undo_(model, receipt)
    assert (model.heads, model.size, model.inner) == (HEADS, 4, WIDTH)
    assert all(torch.equal(dense[n], t) for n, t in model.state_dict().items())


def test_shared_keys_keep_their_sizes() -> None:
    groups = find_groups(SharedKeys().eval(), tokens())
    assert members(groups) == {"embed": "embed.out qkv.in proj.out head.in"}
    assert "unequal parts" in reasons(groups)["qkv"]


def test_a_layer_over_heads_reads_them() -> None:
    model = Talking().eval()
    groups = find_groups(model, tokens())
    assert members(groups)["qkv"] == "qkv.out proj.in talk.in talk.out"
    assert groups["qkv"].units == HEADS
    check(model, groups, tokens())


class Image(nn.Module):
    """stem → something → a convolution → a head."""

    def __init__(self, between: nn.Module, made: int = 8, read: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, made, 3, padding=1)
        self.between = between
        self.next = nn.Conv2d(read, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.next(self.between(self.stem(x).relu())).mean((2, 3)))


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        return self.what(x)  # type: ignore[operator, no-any-return]


def glu(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a * b.sigmoid()


def shuffle(x: Tensor) -> Tensor:
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def halves_apart(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([a.relu(), b.sigmoid()], 1)


def radix(x: Tensor) -> Tensor:
    parts = x.unflatten(1, (2, -1))
    weights = parts.mean((3, 4), keepdim=True).softmax(1)
    return (parts * weights).sum(1)


#: name → (module, channels made, channels read, units, channels per unit).
IMAGES = {
    "pixel shuffle": (nn.PixelShuffle(2), 8, 2, 2, 4),
    "pixel unshuffle": (nn.PixelUnshuffle(2), 2, 8, 2, 1),
    "gated linear unit": (Do(glu), 8, 4, 4, 2),
    "channel shuffle": (Do(shuffle), 8, 8, 4, 2),
    "two halves": (Do(halves_apart), 8, 8, 4, 2),
    "split attention": (Do(radix), 8, 4, 4, 2),
    "reflected padding": (nn.ReflectionPad2d(1), 8, 8, 8, 1),
    "dropout": (nn.Dropout(0.5), 8, 8, 8, 1),
    "upsampling": (nn.Upsample(scale_factor=2, mode="bilinear"), 8, 8, 8, 1),
    "group norm": (nn.GroupNorm(4, 8), 8, 8, 2, 4),
    "layer norm": (Do(lambda x: F.layer_norm(x, x.shape[-1:])), 8, 8, 8, 1),
}


@pytest.mark.parametrize("name", IMAGES)
def test_channels_through(name: str) -> None:
    between, made, read, units, each = IMAGES[name]
    model = Image(copy.deepcopy(between), made, read).eval()
    x = torch.randn(2, 3, 8, 8)
    groups = find_groups(model, x)
    assert groups["stem"].units == units
    assert groups["stem"].producers[0].index.shape == (units, each)
    check(model, groups, x)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda x: x.softmax(1), "'softmax' runs over its channels"),
        (lambda x: x - x.mean(1, keepdim=True), "'mean' runs over its channels"),
        (lambda x: x * torch.arange(8.0).view(8, 1, 1), "joins it with a tensor of fixed size"),
        (lambda x: F.pad(x[:, :5], (0, 0, 0, 0, 0, 3)), "a slice by fixed numbers"),
        (lambda x: torch.cat(x.split((3, 5), 1), 1), "unequal parts of fixed sizes"),
        (lambda x: torch.linalg.qr(x)[0], "'linalg_qr' is not an operation that can be traced"),
    ],
)
def test_what_stays_and_why(what: object, reason: str) -> None:
    groups = find_groups(Image(Do(what)).eval(), torch.randn(2, 3, 8, 8))
    assert members(groups) == {"next": "next.out head.in"}
    assert reason in reasons(groups)["stem"]
