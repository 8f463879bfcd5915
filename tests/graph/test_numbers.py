"""Numbers of a module are rewritten where a size is taken from them, and nowhere else."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import find_groups
from prunus.graph.numbers import Number, SizesRead, numbered, sizes_read
from prunus.surgery import unsound_groups
from tests.graph.test_groups import members

WIDTH, HEADS, TOKENS = 8, 4, 5


class Block(nn.Module):
    """An attention with more numbers than it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.inner = HEADS, WIDTH
        self.num_classes = self.patience = self.queries = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def sizes(self, x: Tensor) -> tuple[int, ...]:
        return (*x.shape[:2], 3, self.heads, 2)

    def forward(self, x: Tensor) -> Tensor:
        images, count, _ = x.shape
        q, k, v = self.qkv(x).view(self.sizes(x)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x.reshape(images, count, self.inner)
        return self.proj(x) * self.num_classes


@functools.cache
def cached(images: int, count: int, heads: int) -> tuple[int, ...]:
    return images, count, 3, int(heads), 2


class Library(Block):
    """Sizes come from a cache, as those of einops do."""

    def sizes(self, x: Tensor) -> tuple[int, ...]:
        return cached(x.shape[0], x.shape[1], self.heads)


@pytest.mark.parametrize("kind", [Block, Library])
def test_only_the_number_that_a_size_is_taken_from_follows(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, WIDTH), kind(), nn.Linear(WIDTH, 3)).eval()
    x = torch.randn(2, TOKENS, 7)
    groups = find_groups(model, x, inputs=False)
    assert members(groups)["1.qkv"] == "1.qkv.out 1.proj.in 1:heads.out 1:inner.out"
    assert unsound_groups(groups, x) == {}
    assert type(model[1].heads) is int


class Halves(nn.Module):
    """A split by a number of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.c = self.depth = 4
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.a(x).split((self.c, self.c), 1)
        return self.b(torch.cat([one.relu(), other], 1))


def test_a_split_reads_a_number() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Halves(), nn.ReLU()).eval()
    groups = find_groups(model, torch.zeros(1, 3, 4, 4))
    assert members(groups) == {"0.a": "0.a.out 0.b.in 0:c.out"}
    assert unsound_groups(groups, torch.randn(2, 3, 4, 4)) == {}


def test_numbers_carry_their_origins_through_arithmetic() -> None:
    block = Block()
    sizes = SizesRead()
    assert ":heads" in numbered(block, sizes.hashed)
    heads, inner = block.heads, block.inner
    size = inner // heads
    assert isinstance(size, Number)
    assert size.origins == {":heads", ":inner"}
    seen = []
    with sizes_read(sizes):

        class Seen(Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
                seen.append([(read.axis, set(read.origins)) for read in sizes.at(3, "")])
                return super().__torch_function__(func, types, args, kwargs)

        torch.zeros(5, 8).as_subclass(Seen).view(5, heads, size)
    assert [(1, {":heads"}), (2, {":heads", ":inner"})] in seen
    assert not sizes.hashed


class Normalise(nn.Module):
    """A norm by a function, whose width is a number of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.across, self.classes = 8, 8
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.across,), self.scale)


def test_a_norm_reads_its_width() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), Normalise(), nn.Linear(8, 2)).eval()
    groups = find_groups(model, torch.zeros(1, 3), inputs=False)
    assert members(groups) == {"0": "0.out 2.in 1.scale:0.out 1:across.out"}
    assert unsound_groups(groups, torch.randn(2, 3)) == {}
