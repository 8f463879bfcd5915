"""DenseNet: every layer reads the maps of all layers before it, and adds a few.

Sources: [DenseNet, section 3] (DenseNet-BC); [Dense-xUnit, section 3.1, Table 1, Figures 8 to 10],
whose ReLU baselines are the networks of this file. Exact counts: docs/theory.md, section 18.
`dxnet.py` uses the same blocks with xUnits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError
from prunus.models.growth import widen_
from prunus.models.registry import register_model, register_restorer

__all__ = ["DenseBlock", "DenseDenoiser", "DenseForm", "DenseLayer", "DenseNet", "DenseTrunk"]

#: Makes a module that keeps the shape (B, C, H, W), from C.
Maker = Callable[[int], nn.Module]


def norm_relu(channels: int) -> nn.Module:
    """Return BN-ReLU, which a DenseNet has before each convolution."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


@dataclass(frozen=True, kw_only=True)
class DenseForm:
    """The hyperparameters shared by all layers of a dense network.

    `growth` is k, the maps that a layer adds; `bottleneck` is b, its 1×1 convolution has b·k maps.
    `before` makes the module before each convolution, `unit` the one after each 3×3 convolution
    (`nn.Identity`: none); `bias` is the 3×3 convolution's. `dropout` follows every convolution
    except the stem's, as in both papers on SVHN (rate 0.2).
    """

    growth: int
    bottleneck: int
    before: Maker = norm_relu
    unit: Maker = nn.Identity
    bias: bool = False
    dropout: float = 0.0


def _dropout(form: DenseForm) -> nn.Module:
    return nn.Dropout(form.dropout) if form.dropout else nn.Identity()


class DenseLayer(nn.Module):
    """unit(conv3×3(before(conv1×1(before(x))))): the k new maps alone, not yet joined to `x`.

    Shapes: (B, `channels`, H, W) → (B, k, H, W), k = `form.growth`. Its 1×1 convolution has `inner`
    maps, b·k if it is None.
    """

    def __init__(self, channels: int, form: DenseForm, *, inner: int | None = None) -> None:
        super().__init__()
        inner = form.bottleneck * form.growth if inner is None else inner
        self.before1 = form.before(channels)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.dropout1 = _dropout(form)
        self.before2 = form.before(inner)
        self.conv2 = nn.Conv2d(inner, form.growth, 3, padding=1, bias=form.bias)
        self.dropout2 = _dropout(form)
        self.unit = form.unit(form.growth)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's new maps (B, k, H, W)."""
        x = self.dropout1(self.conv1(self.before1(x)))  # (B, b·k, H, W)
        x = self.dropout2(self.conv2(self.before2(x)))  # (B, k, H, W)
        return self.unit(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def another(self, form: DenseForm) -> DenseLayer:
        """Return a new layer with this one's current widths, to stack on top of it."""
        k = self.conv2.out_channels
        channels = self.conv1.in_channels + k
        return DenseLayer(channels, replace(form, growth=k), inner=self.conv1.out_channels)


class DenseBlock(nn.Module):
    """x ← [x, layer(x)] for each of `layers`: a list, so that it can grow.

    Shapes: (B, `channels`, H, W) → (B, `channels` + `layers`·k, H, W).
    """

    def __init__(self, channels: int, layers: int, form: DenseForm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(channels + i * form.growth, form) for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` and the maps of all layers, in order."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Module):
    """before-conv1×1, and 2×2 average pooling if `pool`, between two blocks.

    DenseNet's and DxNet's code have the ReLU of `norm_relu` here, although [Dense-xUnit, section
    3.1] mentions only the BN.

    Shapes: (B, `channels`, H, W) → (B, `out`, H/2, W/2), or (B, `out`, H, W) without pooling.
    """

    def __init__(self, channels: int, out: int, form: DenseForm, *, pool: bool) -> None:
        super().__init__()
        self.before = form.before(channels)
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        self.dropout = _dropout(form)
        self.pool = nn.AvgPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return fewer maps, of half the size if it pools."""
        return self.pool(self.dropout(self.conv(self.before(x))))  # type: ignore[no-any-return]


class DenseTrunk(nn.Module):
    """Dense blocks with transitions between them; each transition halves the number of maps.

    Shapes: (B, `channels`, H, W) → (B, `out_channels`, H', W'), the size halved by each transition
    if `pool`. `out_channels` is the value when the trunk was built.

    Raises:
        ConfigError: there is no block, or a block has no layers.
    """

    def __init__(
        self, channels: int, layers: Sequence[int], form: DenseForm, *, pool: bool
    ) -> None:
        super().__init__()
        if not layers or min(layers) < 1:
            raise ConfigError(
                f"blocks of {list(layers)} layers were requested, but a dense network needs at "
                "least one block, and a layer in each: give numbers from 1 up"
            )
        self.form = form
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for i, count in enumerate(layers):
            if i:
                self.transitions.append(Transition(channels, channels // 2, form, pool=pool))
                channels //= 2
            self.blocks.append(DenseBlock(channels, count, form))
            channels += count * form.growth
        self.out_channels = channels

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of layers per block."""
        return tuple(len(cast(DenseBlock, block).layers) for block in self.blocks)

    def grow_(
        self,
        block: int,
        end: nn.Module,
        *,
        draw: Callable[[nn.Module], None] | None = None,
        preserve: bool = False,
    ) -> DenseLayer:
        """Add a layer to a block and widen its consumer; return the layer.

        The consumer is a transition, which keeps its number of outputs, or `end` after the last
        block. `draw` is called with the new layer and with consumers for their first weights; with
        `preserve` the consumers' new columns are 0.
        """
        layers = cast(DenseBlock, self.blocks[block]).layers
        layer = cast(DenseLayer, layers[-1]).another(self.form)
        if draw is not None:
            draw(layer)
        layers.append(layer)
        consumer = self.transitions[block] if block < len(self.transitions) else end
        widen_(consumer, layer.conv2.out_channels, draw=draw, preserve=preserve)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of the last block."""
        first, *others = self.blocks
        x = first(x)
        for transition, block in zip(self.transitions, others, strict=True):
            x = block(transition(x))
        return x


class DenseNet(nn.Module):
    """conv3×3, dense blocks with pooling between them, BN-ReLU, mean over pixels, one linear map.

    The defaults are the smaller DenseNet of [Dense-xUnit, Table 1]: k = 12, b = 4, 2·k maps at
    first, as in DenseNet-BC. `unit` follows each 3×3 convolution, including the first.

    Shapes: (B, `in_channels`, H, W) → (B, num_classes), H and W at least 2^(blocks − 1).

    Example:
        >>> sum(p.numel() for p in DenseNet().parameters())
        769162
    """

    def __init__(
        self,
        layers: Sequence[int] = (16, 16, 16),
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        growth: int = 12,
        bottleneck: int = 4,
        initial: int = 24,
        unit: Maker = nn.Identity,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        form = DenseForm(growth=growth, bottleneck=bottleneck, unit=unit, dropout=dropout)
        self.conv = nn.Conv2d(in_channels, initial, 3, padding=1, bias=False)
        self.unit = unit(initial)
        self.trunk = DenseTrunk(initial, layers, form, pool=True)
        self.last = norm_relu(self.trunk.out_channels)
        self.linear = nn.Linear(self.trunk.out_channels, num_classes)
        _draw(self)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of layers per block."""
        return self.trunk.stage_sizes

    def grow_(self, stage: int, *, preserve: bool = False) -> DenseLayer:
        """Add a layer to a block and widen its consumer; return the layer."""
        end = nn.ModuleList([self.last, self.linear])
        return self.trunk.grow_(stage, end, draw=_draw, preserve=preserve)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images; comments are for 32 × 32, the defaults."""
        x = self.unit(self.conv(x))  # (B, 24, 32, 32)
        x = self.trunk(x)  # (B, 342, 8, 8)
        x = F.adaptive_avg_pool2d(self.last(x), 1)  # (B, 342, 1, 1)
        x = torch.flatten(x, 1)  # (B, 342)
        return self.linear(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class DenseDenoiser(nn.Module):
    """y = x − n̂(x): dense blocks at full resolution estimate the noise n̂, which is subtracted.

    n̂ is conv3×3, dense blocks, conv5×5; [Dense-xUnit, section 4.3] has no pooling and no linear
    map. It trains n̂ on the noise by mean squared error, which equals that of y to the clean image.
    Sizes are those of the authors' public code: k = 16, b = 2, 64 maps at first. `unit` follows
    each 3×3 convolution; without it, this is DxNet without its units, our interpretation of the
    paper's "plain DenseNet", whose size it does not state [reconstruction].

    Shapes: (B, `in_channels`, H, W) → the same, any H and W.

    Example:
        >>> sum(p.numel() for p in DenseDenoiser().parameters())
        112897
    """

    def __init__(
        self,
        layers: Sequence[int] = (4, 4, 4),
        in_channels: int = 1,
        *,
        growth: int = 16,
        bottleneck: int = 2,
        initial: int = 64,
        unit: Maker = nn.Identity,
    ) -> None:
        super().__init__()
        form = DenseForm(growth=growth, bottleneck=bottleneck, unit=unit, bias=True)
        self.conv = nn.Conv2d(in_channels, initial, 3, padding=1)
        self.unit = unit(initial)
        self.trunk = DenseTrunk(initial, layers, form, pool=False)
        self.to_image = nn.Conv2d(self.trunk.out_channels, in_channels, 5, padding=2)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of layers per block."""
        return self.trunk.stage_sizes

    def grow_(self, stage: int, *, preserve: bool = False) -> DenseLayer:
        """Add a layer to a block and widen its consumer; return the layer."""
        return self.trunk.grow_(stage, self.to_image, preserve=preserve)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images (B, C, H, W) without their noise; comments are for the defaults."""
        maps = self.unit(self.conv(x))  # (B, 64, H, W)
        maps = self.trunk(maps)  # (B, 128, H, W)
        return x - self.to_image(maps)  # type: ignore[no-any-return]


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def _classifier(
    layers: tuple[int, ...], *, num_classes: int, input_shape: tuple[int, int, int]
) -> DenseNet:
    return DenseNet(layers, num_classes, input_shape[0])


def _denoiser(layers: tuple[int, ...], *, input_shape: tuple[int, int, int]) -> DenseDenoiser:
    return DenseDenoiser(layers, input_shape[0])


# Named by the layers per block, as are DxNet's: both have three equal blocks on CIFAR.
for _count in (16, 26):
    register_model(
        f"densenet{_count}",
        source=f"Huang et al. 2017; Dense xUnit Networks, Table 1, {_count}-{_count}-{_count}",
    )(partial(_classifier, (_count,) * 3))
for _layers in ((4, 4, 4), (4, 6, 8)):
    _name = "".join(map(str, _layers))
    register_restorer(
        f"densenet{_name}",
        source=f"Dense xUnit Networks, section 4.4: the DenseNet counterpart of dxnet{_name}",
        input_shape=(1, 40, 40),
    )(partial(_denoiser, _layers))
