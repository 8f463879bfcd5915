"""Networks whose outputs are images, sequences or numbers: pruned step by step, not by prune()."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.borders.case import classes, image, network, rows, steps
from tests.borders.networks.convolutional import Conv

#: What `prune()` says of targets that are no classes.
NO_CLASSES = {"teacher": "targets", "prune_refused": "class"}
IMAGES = {"labels": image(), **NO_CLASSES}


@network(image(), cuts=("a", "b"), **IMAGES)
class Denoiser(nn.Module):
    """DnCNN: the noise is subtracted from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 12), (12, 12), (12, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        return x - self.c(F.relu(self.b(F.relu(self.a(x)))))


@network(image(), cuts=("a", "b"), labels=image(size=16), **NO_CLASSES)
class SuperResolution(nn.Module):
    """Four channels of the last convolution become one with twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.c, self.up = nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.up(self.c(x + F.relu(self.b(x))))


@network(image(), cuts=("a", "c"), labels=image(size=16), **NO_CLASSES)
class ShuffledWithin(nn.Module):
    """Pixel shuffle between convolutions: four channels are one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.d = (
            nn.Conv2d(3, 12, 3, 1, 1),
            nn.Conv2d(12, 24, 3, 1, 1),
            nn.Conv2d(6, 3, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.d(F.relu(F.pixel_shuffle(self.c(F.relu(self.a(x))), 2)))


@network(image(), cuts=("0", "2", "4"), **IMAGES)
def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(10, 12, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 10, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(10, 3, 4, 2, 1),
    )


@network(rows(12), cuts=("first",), labels=rows(12), random=True, output=0, **NO_CLASSES)
class VariationalAutoencoder(nn.Module):
    """Samples in evaluation, too: its output is random."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mean, self.spread = nn.Linear(12, 16), nn.Linear(16, 6), nn.Linear(16, 6)
        self.back, self.last = nn.Linear(6, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.first(x))
        mean, spread = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * (spread / 2).exp()
        return self.last(F.relu(self.back(z))), mean, spread


@network(rows(8), cuts=("first", "up"), labels=image(size=16), **NO_CLASSES)
class Generator(nn.Module):
    """GAN: a code becomes a map, and grows by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 12 * 16), nn.BatchNorm2d(12)
        self.up, self.last = nn.ConvTranspose2d(12, 10, 4, 2, 1), nn.ConvTranspose2d(10, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(z).view(len(z), -1, 4, 4)))
        return torch.tanh(self.last(F.relu(self.up(x))))


@network(image(), cuts=("0",), labels=image(size=16), **NO_CLASSES)
def grouped_transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=4),
        nn.ReLU(),
        nn.Conv2d(16, 3, 3, padding=1),
    )


@network(image(), cuts=("0",), labels=image(size=16), **NO_CLASSES)
def depthwise_transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 12, 4, 2, 1, groups=12),
        nn.ReLU(),
        nn.Conv2d(12, 3, 3, padding=1),
    )


class MaskedConv(nn.Conv2d):
    """PixelCNN: a mask in the shape of the weight hides what comes later."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o, 3, padding=1)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 1, 2:] = 0
        self.mask[:, :, 2] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


@network(image(), labels=classes(6, 8, 8), teacher="logits", cuts=("0",))
def pixel_cnn() -> nn.Module:
    return nn.Sequential(
        MaskedConv(3, 12), nn.ReLU(), MaskedConv(12, 16), nn.ReLU(), nn.Conv2d(16, 6, 1)
    )


@network(rows(6), cuts=("0", "2"), labels=rows(1), **NO_CLASSES)
def regression() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 1)
    )


@network(rows(6), cuts=("0",), labels=torch.randn, **NO_CLASSES)
def regression_of_one_number() -> nn.Module:
    """Its output has shape (B,)."""
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))


@network(steps(8, 4), cuts=("0", "2"), labels=steps(8, 3), **NO_CLASSES)
def forecaster() -> nn.Module:
    """Numbers for every step of a series."""
    return nn.Sequential(
        nn.Linear(4, 12), nn.GELU(), nn.Linear(12, 10), nn.LayerNorm(10), nn.Linear(10, 3)
    )


@network(image(), cuts=("b.0", "c.0"), **IMAGES)
class Diffusion(nn.Module):
    """Residual blocks with GroupNorm and one attention over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.b, self.c, self.qkv = Conv(8, 12, 3), Conv(12, 8, 3), nn.Conv2d(8, 24, 1)
        self.out, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.c(self.b(self.norm(x)))
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        a = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(-1)
        x = x + self.out((v @ a.transpose(1, 2)).view(b, -1, h, w))
        return self.last(F.silu(x))
