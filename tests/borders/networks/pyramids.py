"""Networks with maps as outputs or several scales: U-Net, FPN, PANet, deep supervision."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.batches import Heads
from tests.borders.case import classes, image, network
from tests.borders.networks.convolutional import Conv, Head

MAPS = {"labels": classes(4, 8, 8), "teacher": "logits"}


@network(image(), cuts=("a.0", "b.0", "d.0"), export="onnx", **MAPS)
class UNet(nn.Module):
    """Down, up by interpolation, skip by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = Conv(3, 8, 3), Conv(8, 12, 3), Conv(12, 16, 3)
        self.d, self.e, self.head = Conv(28, 10, 3), Conv(18, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x)
        two = self.b(F.max_pool2d(one, 2))
        x = self.c(F.max_pool2d(two, 2))
        x = self.d(torch.cat((F.interpolate(x, scale_factor=2.0, mode="nearest"), two), 1))
        x = self.e(torch.cat((F.interpolate(x, scale_factor=2.0, mode="bilinear"), one), 1))
        return self.head(x)


@network(image(), cuts=("a.0", "up"), **MAPS)
class UNetTransposed(nn.Module):
    """Up by ConvTranspose2d; an odd size is cropped."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 8, 3), Conv(8, 12, 3, 2)
        self.up, self.e, self.head = (
            nn.ConvTranspose2d(12, 8, 2, 2),
            Conv(16, 8, 3),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x)
        y = self.up(self.b(one))[:, :, : one.shape[2], : one.shape[3]]
        return self.head(self.e(torch.cat((one, y), 1)))


@network(image(), cuts=("a.0", "gate"), **MAPS)
class AttentionUNet(nn.Module):
    """The skip is weighed by a map of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 8, 3), Conv(8, 12, 3, 2)
        self.gate, self.other, self.psi = (
            nn.Conv2d(12, 6, 1),
            nn.Conv2d(8, 6, 1),
            nn.Conv2d(6, 1, 1),
        )
        self.e, self.head = Conv(20, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x)
        y = F.interpolate(self.b(one), size=one.shape[2:])
        weight = torch.sigmoid(self.psi(F.relu(self.gate(y) + self.other(one))))
        return self.head(self.e(torch.cat((one * weight, y), 1)))


@network(image(), cuts=("a.0", "b.0", "up"), **MAPS)
class DeepSupervision(nn.Module):
    """In training, each scale has a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.up = Conv(3, 8, 3), Conv(8, 12, 3, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.head, self.coarse = nn.Conv2d(8, 4, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x)
        two = self.b(one)
        main = self.head(F.relu(one + self.up(two)))
        if not self.training:
            return main
        return Heads((main, F.interpolate(self.coarse(two), scale_factor=2.0)))


@network(image(), cuts=("a.0", "b.0", "lateral.0"), output=0, **MAPS)
class FeaturePyramid(nn.Module):
    """FPN: lateral layers, added top-down, one shared head at every scale: several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 8, 3), Conv(8, 12, 3, 2)
        self.lateral = nn.ModuleList([nn.Conv2d(8, 10, 1), nn.Conv2d(12, 10, 1)])
        self.head = nn.Conv2d(10, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one = self.a(x)
        two = self.b(one)
        top = self.lateral[1](two)
        low = self.lateral[0](one) + F.interpolate(top, scale_factor=2.0)
        return self.head(low), self.head(top)


@network(image(), cuts=("a.0", "b.0", "down.0"))
class PathAggregation(nn.Module):
    """PANet: up, concatenate, down again, concatenate; then pooled scales are classified."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 8, 3), Conv(8, 12, 3, 2)
        self.up, self.down, self.out = Conv(20, 10), Conv(10, 8, 3, 2), Conv(20, 12)
        self.head = nn.Linear(22, 4)

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x)
        two = self.b(one)
        low = self.up(torch.cat((F.interpolate(two, scale_factor=2.0), one), 1))
        top = self.out(torch.cat((self.down(low), two), 1))
        return self.head(torch.cat((low.mean((2, 3)), top.mean((2, 3))), 1))


@network(image(), cuts=("a.0", "hidden.0"))
class SpatialPyramid(nn.Module):
    """Pools of several sizes, flattened and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a = Conv(3, 10, 3)
        self.hidden = nn.Sequential(nn.Linear(10 * 5, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.hidden(torch.cat([F.adaptive_avg_pool2d(x, n).flatten(1) for n in (1, 2)], 1))


@network(image(), cuts=("a.0", "b.0", "project.0"), **MAPS)
class Atrous(nn.Module):
    """ASPP: dilated branches and a pooled one that is broadcast, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 8, 3), Conv(8, 8)
        self.c, self.pool = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 6, 1)
        self.project, self.head = Conv(22, 10), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        means = self.pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.head(self.project(torch.cat((self.b(x), F.relu(self.c(x)), means), 1)))


@network(image(), cuts=("a.0", "b"))
class SpatialTransformer(nn.Module):
    """affine_grid and grid_sample move the features by what the network says."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.where, self.b, self.head = (
            Conv(3, 10, 3),
            nn.Linear(10, 6),
            nn.Conv2d(10, 12, 3),
            Head(12),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        theta = self.where(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.head(F.relu(self.b(F.grid_sample(x, grid, align_corners=False))))


@network(image(), cuts=("a.0",))
class DeformableOffsets(nn.Module):
    """A grid of learnt offsets: their channels are coordinates, not features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.offsets, self.b, self.head = (
            Conv(3, 10, 3),
            nn.Conv2d(10, 2, 3, padding=1),
            Conv(10, 12, 3),
            Head(12),
        )
        line = torch.linspace(-1, 1, 8)
        self.register_buffer("grid", torch.stack(torch.meshgrid(line, line, indexing="xy"), -1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        grid = self.grid + 0.1 * torch.tanh(self.offsets(x)).permute(0, 2, 3, 1)
        return self.head(self.b(F.grid_sample(x, grid, align_corners=True)))
