"""Gates on channels and positions: SE, CBAM, ECA, GE, GLU, and gates behind a concatenation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.borders.case import image, network
from tests.borders.networks.convolutional import Conv, Head


class Gated(nn.Module):
    """A stem, a gate on its channels, and a head."""

    def __init__(self, gate: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.stem, self.gate, self.last, self.head = (
            Conv(3, width, 3),
            gate,
            Conv(width, 12),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.gate(self.stem(x))))


@network(image(), cuts=("stem.0", "gate.down"), export="onnx")
def squeeze_excite() -> nn.Module:
    class SE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))

    return Gated(SE())


@network(image(), cuts=("stem.0", "gate.down"))
def squeeze_excite_linear() -> nn.Module:
    class SE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(16, 6), nn.Linear(6, 16)

        def forward(self, x: Tensor) -> Tensor:
            b, c, _, _ = x.size()
            y = F.adaptive_avg_pool2d(x, 1).view(b, c)
            return x * torch.sigmoid(self.up(F.relu(self.down(y)))).view(b, c, 1, 1).expand_as(x)

    return Gated(SE())


@network(image(), cuts=("last.0",))
def squeeze_excite_written_width() -> nn.Module:
    """.view(-1, 16, 1, 1): the gate fixes the width of what it gates."""

    class SE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(self.f(x.mean((2, 3)))).view(-1, 16, 1, 1)

    return Gated(SE())


@network(image(), cuts=("gate.a", "last.0"))
def cbam() -> nn.Module:
    class CBAM(nn.Module):
        """Channel gate from mean and maximum, then a gate on positions."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
            self.where = nn.Conv2d(2, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            means, most = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
            x = x * torch.sigmoid(sum(self.b(F.relu(self.a(y))) for y in (means, most)))
            both = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
            return x * torch.sigmoid(self.where(both))

    return Gated(CBAM())


@network(image(), cuts=("last.0",))
def eca() -> nn.Module:
    class ECA(nn.Module):
        """A convolution over the channels: neighbours matter, so none can go."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x.mean((2, 3))[:, None])[:, 0]
            return x * torch.sigmoid(y)[:, :, None, None]

    return Gated(ECA())


@network(image(), cuts=("stem.0",))
def gather_excite() -> nn.Module:
    class GE(nn.Module):
        """Gather by a depthwise convolution, excite at full resolution."""

        def __init__(self) -> None:
            super().__init__()
            self.gather = nn.Conv2d(16, 16, 4, 4, groups=16)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(F.interpolate(self.gather(x), size=x.shape[-2:]))

    return Gated(GE())


@network(image(), cuts=("a.0", "b.0"))
class GateBehindConcatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 8, 3), Conv(3, 8, 1)
        self.down, self.up, self.last, self.head = (
            nn.Linear(16, 6),
            nn.Linear(6, 16),
            Conv(16, 12),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.a(x), self.b(x)), 1)
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return self.head(self.last(x * gate[:, :, None, None]))


@network(image(), cuts=("stem.0",))
def gated_linear_unit() -> nn.Module:
    """F.glu: the two halves of the channels are pairs."""

    class Glu(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.glu(x, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.glu, self.last, self.head = (
                Conv(3, 24, 3),
                Glu(),
                Conv(12, 12),
                Head(12),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(self.glu(self.stem(x))))

    return Net()


@network(image(), cuts=("a", "b"))
class AttentionPooling(nn.Module):
    """Softmax over positions weighs them; the channels are summed apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.score, self.f = (
            nn.Conv2d(3, 12, 3),
            nn.Conv2d(12, 16, 3),
            nn.Conv2d(16, 1, 1),
            nn.Linear(16, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        weight = self.score(x).flatten(2).softmax(-1)
        return self.f((x.flatten(2) * weight).sum(-1))
