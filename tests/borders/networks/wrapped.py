"""Wrappers, types, hooks, checkpoints: what is around a network, or in it besides layers."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.borders.case import image, network, rows, tokens
from tests.borders.networks.convolutional import Conv, Head


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3),
        Head(16),
    )


def dense() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
    )


@network(image(), cuts=("0", "3"), inner="module")
def data_parallel() -> nn.Module:
    return nn.DataParallel(small())


@network(image(), cuts=("module.0", "module.3"))
class OwnWrapper(nn.Module):
    """Hands everything on to the network that it holds, attributes too."""

    def __init__(self) -> None:
        super().__init__()
        self.module = small()

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.module(*args, **kwargs)


@network(image(), cuts=("0", "3"), inner="_orig_mod")
def compiled() -> nn.Module:
    return torch.compile(small(), backend="eager")


@network(rows(8), refused="(?i)script")
def scripted() -> nn.Module:
    return torch.jit.script(dense().eval())


@network(rows(8), cuts=("first", "last.0"))
class ScriptedWithin(nn.Module):
    """A scripted module among others: its widths are fixed, the rest can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Linear(8, 16), nn.Linear(16, 12)
        self.fixed = torch.jit.script(nn.Sequential(nn.Linear(12, 12), nn.ReLU()))
        self.last = nn.Sequential(nn.Linear(12, 14), nn.ReLU(), nn.Linear(14, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fixed(self.wide(F.relu(self.first(x)))))


@network(rows(8), refused="(?i)lazy|uninitiali[sz]ed|not initiali[sz]ed")
def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(4))


@network(rows(8), refused="(?i)quanti[sz]")
def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(dense().eval(), {nn.Linear})


@network(rows(8), refused="meta")
def on_meta() -> nn.Module:
    return dense().to("meta")


@network(image(dtype=torch.float64), cuts=("0", "3"))
def float64() -> nn.Module:
    return small().double()


@network(image(dtype=torch.bfloat16), cuts=("0", "3"), tolerance=2e-2)
def bfloat16() -> nn.Module:
    return small().bfloat16()


@network(image(dtype=torch.float16), cuts=("0", "3"), tolerance=2e-3)
def float16() -> nn.Module:
    return small().half()


@network(rows(8, torch.complex64), refused="(?i)complex", labels=lambda n: torch.arange(n) % 4)
def complex_weights() -> nn.Module:
    class Real(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs()

    return nn.Sequential(
        nn.Linear(8, 12, dtype=torch.complex64), nn.Linear(12, 4, dtype=torch.complex64), Real()
    )


class Checkpointed(nn.Module):
    """Activations are worked out again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem, self.mid, self.head = Conv(3, 10, 3), Conv(10, 12, 3), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.mid, self.stem(x), use_reentrant=self.reentrant)
        return self.head(x)


@network(image(), cuts=("stem.0", "mid.0"))
def checkpointed() -> nn.Module:
    return Checkpointed(reentrant=False)


@network(image(), cuts=("stem.0", "mid.0"))
def reentrant_checkpoint() -> nn.Module:
    return Checkpointed(reentrant=True)


@network(image(), cuts=("trunk.0", "trunk.3"))
class FrozenTrunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = small()[:4], Head(16)
        self.trunk.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.trunk(x)))


@network(image(), cuts=("trunk.0", "trunk.3"))
class TrunkWithoutGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = small()[:4], Head(16)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.trunk(x)
        return self.head(F.relu(x))


@network(image(), cuts=("a.0", "b.0"))
class Detached(nn.Module):
    """A stop-gradient between the parts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Conv(3, 10, 3), Conv(10, 12, 3), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).detach()))


@network(image(), cuts=("0", "3"))
def no_parameter_needs_gradients() -> nn.Module:
    return small().requires_grad_(False)


@network(image(), cuts=("0",))
def hook_changes_output() -> nn.Module:
    """A forward hook scales what a layer makes: a function that the layer's type does not tell."""
    net = small()
    net[3].register_forward_hook(lambda module, given, made: made * 2)
    return net


@network(image(), cuts=("0", "3"))
def hook_changes_input() -> nn.Module:
    net = small()
    net.register_forward_pre_hook(lambda module, given: (given[0] / 2,))
    return net


@network(image(), cuts=("0", "3"), writes=("seen",))
def hook_closes_over_network() -> nn.Module:
    """A hook of the user's own writes to the network: copies of it must not."""
    net = small()
    net.seen = 0

    def count(module: nn.Module, given: object, made: Tensor) -> None:
        net.seen += 1

    net[0].register_forward_hook(count)
    return net


@network(image(), cuts=("a.0", "b.0"))
class ClosesOverItself(nn.Module):
    """A function of the network is kept as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Conv(3, 10, 3), Conv(10, 12, 3), Head(12)
        self.run = lambda x: self.b(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x))


@network(image(), cuts=("a.0", "b.0"))
class PlainTensors(nn.Module):
    """Mean and standard deviation as tensors that are no buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor(0.25)
        self.a, self.b, self.head = Conv(3, 10, 3), Conv(10, 12, 3), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a((x - self.mean) / self.std)))


@network(image(), cuts=("b.0",))
class BuffersAsConstants(nn.Module):
    """A fixed blur as a grouped convolution with a buffer for a weight, and a table of offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Conv(3, 10, 3), Conv(10, 12, 3), Head(12)
        self.register_buffer("kernel", torch.full((10, 1, 3, 3), 1 / 9))
        self.register_buffer("shift", torch.linspace(-1, 1, 12).view(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.a(x), self.kernel, padding=1, groups=10)
        return self.head(self.b(x) + self.shift)


@network(image(), cuts=("a.0", "b.0"))
class WidthAsAttribute(nn.Module):
    """Numbers that happen to equal widths, and mean something else."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Conv(3, 10, 3), Conv(10, 12, 3), Head(12)
        self.temperature, self.patch = 10, 12

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        return self.head(F.interpolate(x, size=(self.patch, self.patch))) / self.temperature


@network(image(), random=True, cuts=("a.0",))
class MonteCarloDropout(nn.Module):
    """Dropout that stays on: its output is random in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.f = Conv(3, 10, 3), Conv(10, 12, 3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(F.dropout(self.b(self.a(x)).mean((2, 3)), 0.3, training=True))


@network(rows(8), refused="no convolution or linear layer|no parameter|0 params|unprunable")
class WithoutParameters(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4] * 2


@network(rows(8), cuts=("0.inputs",))
def one_layer() -> nn.Module:
    """Its outputs stay; inputs can go."""
    return nn.Sequential(nn.Linear(8, 4))


@network(image(), refused="outputs")
def one_convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@network(rows(8), cuts=("0",))
def layer_of_no_width() -> nn.Module:
    """A branch of width 0, as some searches leave."""

    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Linear(16, 0)
            self.most = nn.Linear(16, 12)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((self.none(x), self.most(x)), 1)

    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Empty(), nn.ReLU(), nn.Linear(12, 4))


@network(rows(8), cuts=("0", "2"))
def unused_layers() -> nn.Module:
    """A layer that never runs, and an identity."""

    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*dense(), nn.Identity())
            self.spare = nn.Linear(7, 9)

        def forward(self, x: Tensor) -> Tensor:
            for layer in list(self.children())[:6]:
                x = layer(x)
            return x

    return Net()


@network(tokens(), cuts=("a",))
class TraceableControl(nn.Module):
    """Loops over a number of the network, skips by a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.a, self.b, self.rounds = (
            nn.Embedding(20, 10),
            nn.Linear(10, 14),
            nn.Linear(14, 10),
            2,
        )
        self.head = nn.Linear(10, 4)

    def forward(self, ids: Tensor, skip: bool = False) -> Tensor:
        x = self.e(ids)
        for _ in range(0 if skip else self.rounds):
            x = x + self.b(F.relu(self.a(x)))
        return self.head(x.mean(1))


@network(image(), cuts=("net.0", "net.3"))
class KeepsACopy(nn.Module):
    """An averaged copy of itself that does not run (EMA teacher)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@network(image(), cuts=("0", "3"))
def channels_last() -> nn.Module:
    return small().to(memory_format=torch.channels_last)


@network(image(), refused="not finite|NaN|finite")
def nan_weight() -> nn.Module:
    net = small()
    net[3].weight.data[0, 0, 0, 0] = float("nan")
    return net


@network(image(), refused="NaN|infinite|finite")
class NanOutput(nn.Module):
    """Divides by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = Conv(3, 10, 3), Head(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x)) / (x.mean((1, 2, 3))[:, None] * 0)


@network(image(), refused="cannot be run|fails|does not run|shape")
def wrong_shapes() -> nn.Module:
    """It does not fit its input."""
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.Conv2d(10, 12, 3), Head(12))
