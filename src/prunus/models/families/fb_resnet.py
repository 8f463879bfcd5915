"""FB-ResNet: a network that iterates on features u, with linear or nonlinear mappings.

Source: [Data-feature, Algorithm 2, eq. 4.2–4.4, 4.7, Table 1], theory.md (82). On level l, with
u^{1,0} = 0,

    u^{l,i}   = u^{l,i−1} + ℬ^{l,i}(f^l − 𝒜^l(u^{l,i−1})),  i = 1 … ν                       (4.3)
    u^{l+1,0} = Π *₂ u^{l,ν}
    f^{l+1}   = R *₂ (f^l − 𝒜^l(u^{l,ν})) + 𝒜^{l+1}(u^{l+1,0})                              (4.4)

where 𝒜 and ℬ are one of K*, K*σ, σ∘K*, σ∘K*σ (4.7), K a 3×3 convolution, σ = ReLU. A^l is one
convolution per level; Π and R are 3×3 convolutions of stride 2. Since (4.4) adds what (4.3)
subtracts at i = 1, the first residual of a level is R *₂ (…) itself. With 𝒜 = A* the residuals f^l
− A^l * u^{l,i} follow the pre-activation ResNet-A^l-B^{l,i} (Theorem 1).

Names: `fb_resnet18_<𝒜>_<ℬ>` spells Table 1's schemes in its own order, `s` for σ: `a` is A*, `as`
is A*σ, `sa` is σ∘A*, `sas` is σ∘A*σ, and likewise for b. The best of the table, 𝒜 = A* and ℬ =
σ∘B*σ, is `fb_resnet18_a_sbs`.

The paper gives neither depth nor norms for Table 1; these are reconstructions of ours. The depth of
18 is that of its ResNet-18: a stem, four levels of ν = 2 iterations of an A and a B, a linear
layer, with 64 to 512 channels. BatchNorm precedes every σ and, as after a ResNet's projection,
follows Π and R. It is never shared: each application of A^l has its own. So 𝒜 = A*, ℬ = B* has none
within a level; in our trials it diverged at the paper's rate of 0.1, but not at 0.02. The stem is
σ(BN(θ⁰ * f)), the head the average of u^{4,ν}.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError
from prunus.models.registry import register_model

__all__ = ["FBResNet", "Scheme"]


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The positions of σ in σ∘K*σ: `before` the convolution, `after` it, both or neither."""

    before: bool
    after: bool

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Read `k`, `ks`, `sk` or `sks`, for K*, K*σ, σ∘K* or σ∘K*σ.

        Raises:
            ConfigError: it is none of these.
        """
        if text not in ("k", "ks", "sk", "sks"):
            raise ConfigError(f"scheme {text!r}: expected 'k', 'ks', 'sk' or 'sks', s for σ")
        return cls(before=text.endswith("s"), after=text.startswith("s"))


class Application(nn.Module):
    """One application of K*, K*σ, σ∘K* or σ∘K*σ: with its own norms and a given kernel.

    Shapes: (B, `planes`, H, W) → the same; `kernel` keeps the number of channels.
    """

    def __init__(self, planes: int, scheme: Scheme) -> None:
        super().__init__()
        self.before, self.after = (
            nn.Sequential(nn.BatchNorm2d(planes), nn.ReLU()) if there else nn.Identity()
            for there in (scheme.before, scheme.after)
        )

    def forward(self, x: Tensor, kernel: nn.Module) -> Tensor:
        """Return σ(K * σ(x)), with the σ of the scheme."""
        return self.after(kernel(self.before(x)))  # type: ignore[no-any-return]


class FBLevel(nn.Module):
    """One level of Algorithm 2, including the pooling before it unless it is the first.

    Shapes: u and the residual d are (B, `in_planes`, H, W) each, and become (B, `planes`, H/2,
    W/2); on the first level, where there is no u yet, the size stays the same.

    Attributes:
        a: A^l, a single module; a forward pass runs it for every application in `apply_a`.
        b: the B^{l,i}, i = 1 … ν.
        pi, r: Π and R, each with its norm; not on the first level.
    """

    def __init__(
        self, in_planes: int, planes: int, iterations: int, a: Scheme, b: Scheme, *, place: str
    ) -> None:
        super().__init__()
        self.first, self.last = place == "first", place == "last"
        self.a = _conv3(planes, planes)
        self.b = nn.ModuleList(_conv3(planes, planes) for _ in range(iterations))
        count = iterations + 1 - self.first - self.last
        self.apply_a = nn.ModuleList(Application(planes, a) for _ in range(count))
        self.apply_b = nn.ModuleList(Application(planes, b) for _ in range(iterations))
        if not self.first:
            self.pi = _conv3(in_planes, planes, stride=2)
            self.norm_pi = nn.BatchNorm2d(planes)
            self.r = _conv3(in_planes, planes, stride=2)
            self.norm_r = nn.BatchNorm2d(planes)

    def forward(self, u: Tensor | None, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return u^{l,ν} and d = f^l − 𝒜^l(u^{l,ν}) from those of the level before.

        The first level gets None for u^{1,0} = 0, and f^1. The last one's d is not needed, so it is
        left at i = ν − 1.
        """
        uses = iter(self.apply_a)
        f = d
        if u is not None:  # 𝒜(0) = 0
            u, d = self.norm_pi(self.pi(u)), self.norm_r(self.r(d))
            f = d + next(uses)(u, self.a)
        for b, use in zip(self.b, self.apply_b, strict=True):
            u = use(d, b) if u is None else u + use(d, b)
            apply_a = next(uses, None)
            if apply_a is not None:
                d = f - apply_a(u, self.a)
        assert u is not None
        return u, d


class FBResNet(nn.Module):
    """FB-ResNet of Algorithm 2, by default with the width and depth of ResNet-18.

    `a` and `b` are the schemes of 𝒜 and ℬ, written as `Scheme.parse` reads them; `iterations`
    holds ν of each level, at least two levels; level l has `planes`·2^l channels.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), any H and W.

    Raises:
        ConfigError: there are fewer than two levels, or a level has fewer than two iterations.

    Example:
        >>> sum(p.numel() for p in FBResNet(a="k", b="sks").parameters())
        12515146
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        a: str,
        b: str,
        iterations: Sequence[int] = (2, 2, 2, 2),
        planes: int = 64,
    ) -> None:
        super().__init__()
        if len(iterations) < 2 or min(iterations) < 2:
            raise ConfigError(
                f"iterations {tuple(iterations)}: expected at least 2 for each of at least 2 levels"
            )
        self.conv = _conv3(in_channels, planes)
        self.norm = nn.BatchNorm2d(planes)
        widths = [planes * 2**level for level in range(len(iterations))]
        places = ["first", *["middle"] * (len(widths) - 2), "last"]
        self.levels = nn.ModuleList(
            FBLevel(before, width, count, Scheme.parse(a), Scheme.parse(b), place=place)
            for before, width, count, place in zip(
                [planes, *widths], widths, iterations, places, strict=False
            )
        )
        self.linear = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; comments are for 32 × 32."""
        u: Tensor | None = None
        d = F.relu(self.norm(self.conv(image)))  # f^1, (B, 64, 32, 32)
        for level in self.levels:
            u, d = level(u, d)  # (B, 64·2^l, 32/2^l, 32/2^l)
        assert u is not None
        h = F.adaptive_avg_pool2d(u, 1)  # (B, 512, 1, 1)
        return self.linear(torch.flatten(h, 1))  # type: ignore[no-any-return]


def _conv3(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)


def _build(a: str, b: str, *, num_classes: int, input_shape: tuple[int, int, int]) -> FBResNet:
    return FBResNet(num_classes, input_shape[0], a=a, b=b)


for _a, _b in itertools.product(("k", "ks", "sk", "sks"), repeat=2):
    register_model(
        f"fb_resnet18_{_a.replace('k', 'a')}_{_b.replace('k', 'b')}",
        source="He et al. 2019 (data-feature mapping), Algorithm 2 and Table 1",
    )(partial(_build, _a, _b))
