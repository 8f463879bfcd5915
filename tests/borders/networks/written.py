"""Layers that people write themselves: raw parameters, einsum, KAN, norms with odd names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.borders.case import image, network, rows, steps
from tests.borders.networks.convolutional import Conv, Head


class Scale(nn.Module):
    """RMSNorm in a class whose name does not say so; the parameter is called g."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self.g


@network(steps(5, 8), cuts=("0", "2"))
def norm_with_odd_name() -> nn.Module:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1)

    return nn.Sequential(
        nn.Linear(8, 12), Scale(12), nn.Linear(12, 16), nn.GELU(), Mean(), nn.Linear(16, 4)
    )


class Normalise(nn.Module):
    """LayerNorm by F.layer_norm, with its shape written down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.alpha, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), self.alpha, self.beta)


@network(rows(8), cuts=("2",))
def functional_layer_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 12), Normalise(12), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)
    )


@network(rows(8), cuts=("a",))
class UnitLength(nn.Module):
    """F.normalize before the classifier, a cosine head with a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 14), nn.Linear(14, 12)
        self.prototypes, self.scale = (
            nn.Parameter(torch.randn(4, 12)),
            nn.Parameter(torch.tensor(5.0)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(self.b(F.relu(self.a(x))), dim=1)
        return self.scale * x @ F.normalize(self.prototypes, dim=1).t()


@network(image(), cuts=("a", "b"))
class RawHead(nn.Module):
    """x @ self.proj: the head is a Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 12, 3)
        self.proj = nn.Parameter(torch.randn(12, 4) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)) @ self.proj


@network(rows(8), cuts=("w1.T", "w2.T"))
class AllRaw(nn.Module):
    """No layer at all: matrices and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(8, 16) * 0.3), nn.Parameter(torch.zeros(16))
        self.w2, self.b2 = nn.Parameter(torch.randn(16, 12) * 0.3), nn.Parameter(torch.zeros(12))
        self.w3 = nn.Parameter(torch.randn(12, 4) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x @ self.w1 + self.b1)
        return F.relu(torch.matmul(x, self.w2) + self.b2) @ self.w3


@network(image(), cuts=("w1", "w2"))
class FunctionalConvolutions(nn.Module):
    """F.conv2d with Parameters, as in MAML."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(10, 3, 3, 3) * 0.2)
        self.w2 = nn.Parameter(torch.randn(12, 10, 3, 3) * 0.2)
        self.b2, self.head = nn.Parameter(torch.zeros(12)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.w1, padding=1))
        return self.head(F.relu(F.conv2d(x, self.w2, self.b2)).mean((2, 3)))


@network(image(), cuts=("a", "b"))
class CalledDirectly(nn.Module):
    """layer.forward(x): hooks do not run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.h = (
            nn.Conv2d(3, 10, 3),
            nn.Conv2d(10, 12, 3),
            nn.Conv2d(12, 10, 1),
            nn.Linear(10, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b.forward(F.relu(self.a(x))))
        return self.h(F.relu(self.c(x)).mean((2, 3)))


@network(steps(5, 8), cuts=("first",))
class EinsumHeads(nn.Module):
    """Attention by einsum with weights (width, heads, dimensions)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 12)
        self.wq, self.wk, self.wv = (nn.Parameter(torch.randn(12, 3, 4) * 0.3) for _ in range(3))
        self.wo, self.head = nn.Parameter(torch.randn(3, 4, 12) * 0.3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k, v = (torch.einsum("btc,chd->bhtd", x, w) for w in (self.wq, self.wk, self.wv))
        a = torch.einsum("bhtd,bhsd->bhts", q, k).mul(0.5).softmax(-1)
        y = torch.einsum("bhts,bhsd->bthd", a, v)
        return self.head((x + torch.einsum("bthd,hdc->btc", y, self.wo)).mean(1))


@network(image(), cuts=("a", "c"))
class EinsumMixer(nn.Module):
    """1×1 convolutions as einsum over maps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.w, self.c = (
            nn.Conv2d(3, 10, 3),
            nn.Parameter(torch.randn(12, 10) * 0.3),
            nn.Conv2d(12, 14, 1),
        )
        self.head = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(torch.einsum("bchw,oc->bohw", F.relu(self.a(x)), self.w))
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class Spline(nn.Module):
    """KAN-like: radial bases of each input, one coefficient for each basis and output."""

    def __init__(self, i: int, o: int, bases: int = 4) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-2, 2, bases))
        self.coefficients = nn.Parameter(torch.randn(i, o, bases) * 0.3)
        self.base = nn.Parameter(torch.randn(o, i) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        bases = torch.exp(-((x[..., None] - self.centres) ** 2))
        return torch.einsum("bik,iok->bo", bases, self.coefficients) + F.linear(
            F.silu(x), self.base
        )


@network(rows(6), cuts=("2",))
def kan() -> nn.Module:
    return nn.Sequential(
        Spline(6, 12), Spline(12, 10), nn.Linear(10, 14), nn.ReLU(), nn.Linear(14, 4)
    )


@network(lambda n: (torch.randn(n, 5, 6), torch.rand(n, 5, 5)), cuts=("two",))
class RawGraphConvolution(nn.Module):
    """Kipf's layer: a Parameter (in, out), the adjacency is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(6, 12) * 0.3),
            nn.Parameter(torch.zeros(12)),
        )
        self.two, self.head = nn.Linear(12, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = F.relu(adjacency @ (x @ self.weight) + self.bias)
        return self.head(F.relu(adjacency @ self.two(x)).mean(1))


@network(rows(8), cuts=("a",))
class VectorQuantised(nn.Module):
    """The nearest entry of a codebook, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.codebook = (
            nn.Linear(8, 16),
            nn.Linear(16, 10),
            nn.Parameter(torch.randn(6, 10)),
        )
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.b(F.relu(self.a(x)))
        found = self.codebook[torch.cdist(z, self.codebook).argmin(1)]
        return self.head(z + 0.5 * (found - z).detach())


@network(rows(8), cuts=("a", "c"))
class LearntActivation(nn.Module):
    """PReLU and Swish with one number for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.c = nn.Linear(8, 14), nn.PReLU(14), nn.Linear(14, 12)
        self.beta, self.head = nn.Parameter(torch.rand(12) + 0.5), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.act(self.a(x)))
        return self.head(x * torch.sigmoid(self.beta * x))


@network(rows(8), cuts=("a",))
class Maxout(nn.Module):
    """The largest of three neurons; three are one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 12), nn.Linear(12, 30), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x)))
        return self.head(x.view(len(x), -1, 3).amax(-1))


@network(rows(8), cuts=("body.0",))
class Highway(nn.Module):
    """Gate · body + (1 − gate) · x."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = (
            nn.Sequential(nn.Linear(8, 14), nn.ReLU(), nn.Linear(14, 8)),
            nn.Linear(8, 8),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(x))
        return self.head(g * self.body(x) + (1 - g) * x)


@network(image(), cuts=("a.0",))
class Involution(nn.Module):
    """A kernel for each position, made by a convolution, applied by unfold."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.kernel, self.head = Conv(3, 10, 3), nn.Conv2d(10, 9, 1), Head(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, c, h, w = x.shape
        kernel = self.kernel(x).view(b, 1, 9, h, w)
        return self.head((F.unfold(x, 3, padding=1).view(b, c, 9, h, w) * kernel).sum(2))


@network(image(), cuts=("last.0",))
class DynamicConvolution(nn.Module):
    """CondConv: kernels are mixed by the input, and run as one grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.route = Conv(3, 10, 3), nn.Linear(10, 3)
        self.kernels, self.last, self.head = (
            nn.Parameter(torch.randn(3, 12, 10, 1, 1) * 0.3),
            Conv(12, 12),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        mix = self.route(x.mean((2, 3))).softmax(-1)
        kernel = torch.einsum("bk,koihw->boihw", mix, self.kernels).flatten(0, 1)
        x = F.conv2d(x.reshape(1, b * c, h, w), kernel, groups=b).view(b, -1, h, w)
        return self.head(self.last(F.relu(x)))


@network(image(), cuts=("stem.0", "branches.0", "branches.1"))
class SelectiveKernel(nn.Module):
    """SK: a softmax over branches weighs each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 8, 3)
        self.branches = nn.ModuleList(nn.Conv2d(8, 12, 3, padding=d, dilation=d) for d in (1, 2))
        self.squeeze, self.expand, self.head = (
            nn.Linear(12, 6),
            nn.ModuleList(nn.Linear(6, 12) for _ in range(2)),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        parts = torch.stack([F.relu(branch(x)) for branch in self.branches], 1)
        z = F.relu(self.squeeze(parts.sum(1).mean((2, 3))))
        weights = torch.stack([layer(z) for layer in self.expand], 1).softmax(1)
        return self.head((parts * weights[..., None, None]).sum(1))


@network(image(), cuts=("b.0",))
class HalfChannels(nn.Module):
    """Slices by number: the first six channels are convolved, the others pass (FasterNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.part, self.b, self.head = (
            Conv(3, 12, 3),
            nn.Conv2d(6, 6, 3, padding=1),
            Conv(12, 10),
            Head(10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(self.b(torch.cat((self.part(x[:, :6]), x[:, 6:]), 1)))


@network(image(), cuts=("a.0", "b"))
class GlobalResponse(nn.Module):
    """ConvNeXt 2's GRN: divided by the mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.b = Conv(3, 10, 3), nn.Conv2d(10, 16, 1), nn.Conv2d(16, 12, 1)
        self.gamma, self.beta, self.head = (
            nn.Parameter(torch.ones(1, 16, 1, 1)),
            nn.Parameter(torch.zeros(1, 16, 1, 1)),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.up(self.a(x)))
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        x = self.gamma * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + self.beta + x
        return self.head(self.b(x))
