"""DxNet: DenseNet with an xUnit in every layer, after the few new maps.

Source: [Dense-xUnit]: sections 3.3 (the x-dense layer), 4.1 and Table 1 (classification), 4.2
(super-resolution), 4.3 (denoising). What its text omits is from the authors' public code, or marked
as a reconstruction. Exact counts: docs/theory.md, section 18.

Two naming conventions apply. In this registry `dxnet12` and `dxnet19` are the classifiers of
Table 1, by the layers of each of their three blocks; `dxnet444` and `dxnet468` are denoisers, by
the layers of their blocks, as in the paper's DxNet4,4,4; `dxnet16_x2` to `dxnet32_x4` are the
paper's DxNet16 and DxNet32, by growth rate, and the scale. The paper's DxNet-105 for ImageNet
(6-12-20-12) is omitted: the paper gives no count to check a reconstruction against.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError
from prunus.models.families.densenet import (
    DenseDenoiser,
    DenseForm,
    DenseLayer,
    DenseNet,
    DenseTrunk,
    Transition,
)
from prunus.models.registry import register_model, register_restorer
from prunus.models.xunit import XUnit

__all__ = ["DxNetSR", "dxnet_classifier", "dxnet_denoiser"]


def dxnet_classifier(
    layers: Sequence[int] = (12, 12, 12),
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    growth: int = 12,
    bottleneck: int = 4,
    initial: int = 24,
    kernel: int = 9,
    bias: bool = True,
    dropout: float = 0.0,
) -> DenseNet:
    """Return DxNet for classification: x-dense layers BN-ReLU-1×1-BN-ReLU-3×3-xUnit.

    The stem's convolution is followed by an xUnit, too. The available text lacks k, b and the first
    number of maps; the defaults are those that reproduce its sizes (docs/theory.md, section 18) and
    are the same for the DenseNet in Table 1: 532 162 parameters for its 0.5 M. Its 1.0 M (19-19-19,
    here 1 090 930) is reproduced by 1 049 158 with `kernel=7, initial=16, bias=False`; `bias` is
    that of the xUnits' convolutions.

    Example:
        >>> sum(p.numel() for p in dxnet_classifier().parameters())
        532162
    """
    return DenseNet(
        layers,
        num_classes,
        in_channels,
        growth=growth,
        bottleneck=bottleneck,
        initial=initial,
        unit=partial(XUnit, kernel=kernel, bias=bias),
        dropout=dropout,
    )


def dxnet_denoiser(
    layers: Sequence[int] = (4, 4, 4), in_channels: int = 1, *, kernel: int = 9
) -> DenseDenoiser:
    """Return DxNet for denoising; a BN follows each xUnit, as in the authors' public code.

    k = 16, b = 2, 64 maps at first. 134 657 parameters with `kernel=7`, that code's default.

    Example:
        >>> sum(p.numel() for p in dxnet_denoiser().parameters())
        142849
    """

    def unit(channels: int) -> nn.Module:
        return nn.Sequential(XUnit(channels, kernel), nn.BatchNorm2d(channels))

    return DenseDenoiser(layers, in_channels, unit=unit)


class DxNetSR(nn.Module):
    """y = bilinear(x) + tail(trunk(x)): DxNet for super-resolution, without BN, with PReLU.

    The network reads the small image, RGB (`in_channels=3`) or luminance Y (`in_channels=1`); the
    paper compares on Y. It states the blocks (4-4-4-6-8-8-8 at k = 16 and 4-6-8 at k = 32), no
    BN, and 0.86 M parameters of DxNet16; the public code adds PReLU, pixel shuffle and xUnits of
    9×9. Several networks match this. [Reconstruction: b = 2, the factor 0.5 and the convolutions
    with bias of the authors' code, 2·k maps at first as in their CIFAR networks; a last 1×1
    convolution to 64 maps, pixel shuffles by 2 or 3 at 64 maps as in [EDSR], then conv3×3 and
    conv5×5 to the image, which is added to the bilinearly enlarged one, both as in the authors'
    code.] It gives DxNet16 860 752 parameters at ×4 in RGB, the paper's 0.86 M.

    Shapes: (B, `in_channels`, H, W) → (B, `in_channels`, s·H, s·W), s = `scale`.

    Raises:
        ConfigError: the scale is not 2, 3 or 4.

    Example:
        >>> sum(p.numel() for p in DxNetSR().parameters())
        860752
    """

    def __init__(
        self,
        layers: Sequence[int] = (4, 4, 4, 6, 8, 8, 8),
        in_channels: int = 3,
        *,
        scale: int = 4,
        growth: int = 16,
        bottleneck: int = 2,
        kernel: int = 9,
        width: int = 64,
    ) -> None:
        super().__init__()
        if scale not in _FACTORS:
            raise ConfigError(
                f"DxNetSR has no scale {scale}: choose one of {', '.join(map(str, _FACTORS))}"
            )
        self.scale = scale
        form = DenseForm(
            growth=growth,
            bottleneck=bottleneck,
            before=_prelu,
            unit=partial(XUnit, kernel=kernel, norm=False),
            bias=True,
        )
        initial = 2 * growth
        self.conv = nn.Conv2d(in_channels, initial, 3, padding=1)
        self.unit = form.unit(initial)
        self.trunk = DenseTrunk(initial, layers, form, pool=False)
        self.squeeze = Transition(self.trunk.out_channels, width, form, pool=False)
        self.upsample = nn.Sequential(*(_enlarge(width, factor) for factor in _FACTORS[scale]))
        self.refine = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.PReLU())
        self.to_image = nn.Conv2d(width, in_channels, 5, padding=2)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of layers per block."""
        return self.trunk.stage_sizes

    def grow_(self, stage: int, *, preserve: bool = False) -> DenseLayer:
        """Add a layer to a block and widen its consumer; return the layer."""
        return self.trunk.grow_(stage, self.squeeze, preserve=preserve)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images with s times the height and width; comments are for the defaults."""
        maps = self.unit(self.conv(x))  # (B, 32, H, W)
        maps = self.trunk(maps)  # (B, 243, H, W)
        maps = self.squeeze(maps)  # (B, 64, H, W)
        maps = self.upsample(maps)  # (B, 64, 4·H, 4·W)
        large = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return large + self.to_image(self.refine(maps))  # type: ignore[no-any-return]


#: The pixel shuffles for each scale, as in EDSR.
_FACTORS = {2: (2,), 3: (3,), 4: (2, 2)}


def _prelu(_channels: int) -> nn.Module:
    return nn.PReLU()  # one slope for all maps


def _enlarge(width: int, factor: int) -> nn.Sequential:
    """Return conv3×3, pixel shuffle, PReLU: (B, `width`, H, W) → (B, `width`, f·H, f·W)."""
    conv = nn.Conv2d(width, width * factor**2, 3, padding=1)
    return nn.Sequential(conv, nn.PixelShuffle(factor), nn.PReLU())


def _classifier(
    layers: tuple[int, ...], *, num_classes: int, input_shape: tuple[int, int, int]
) -> DenseNet:
    return dxnet_classifier(layers, num_classes, input_shape[0])


def _denoiser(layers: tuple[int, ...], *, input_shape: tuple[int, int, int]) -> DenseDenoiser:
    return dxnet_denoiser(layers, input_shape[0])


def _super_resolution(growth: int, scale: int, *, input_shape: tuple[int, int, int]) -> DxNetSR:
    return DxNetSR(_SR_LAYERS[growth], input_shape[0], scale=scale, growth=growth)


for _count in (12, 19):
    register_model(
        f"dxnet{_count}", source=f"Dense xUnit Networks, Table 1, {_count}-{_count}-{_count}"
    )(partial(_classifier, (_count,) * 3))
for _layers in ((4, 4, 4), (4, 6, 8)):
    register_restorer(
        "dxnet" + "".join(map(str, _layers)),
        source=f"Dense xUnit Networks, section 4.3, DxNet{','.join(map(str, _layers))}",
        input_shape=(1, 40, 40),
    )(partial(_denoiser, _layers))
_SR_LAYERS = {16: (4, 4, 4, 6, 8, 8, 8), 32: (4, 6, 8)}
for _growth in _SR_LAYERS:
    for _scale in (2, 3, 4):
        register_restorer(
            f"dxnet{_growth}_x{_scale}",
            source=f"Dense xUnit Networks, section 4.2, DxNet{_growth}; upsampler reconstructed",
            input_shape=(3, 24, 24),
            scale=_scale,
        )(partial(_super_resolution, _growth, _scale))
