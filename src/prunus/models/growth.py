"""Networks that grow: a module like the one beneath, at the end of a stage.

Source: [Tian, section 4.2.2]: "a stage consists of several modules before a
pooling layer with the same output feature map dimension", "the newly added module has the same
architecture as the module underneath". Function-preserving starts are an addition of ours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import nn

from prunus.core import ConfigError
from prunus.models.registry import MODELS

__all__ = [
    "Growing",
    "add_residual_",
    "grow_",
    "grow_to_",
    "identity_conv_",
    "identity_norm_",
    "sized_name",
    "split_sizes",
    "stage_sizes",
    "widen_",
    "zero_",
]

_SIZED = re.compile(r"(?P<name>.+)@(?P<sizes>[0-9]+(,[0-9]+)*)")


class _Residual(Protocol):
    """A module of a residual stage: it knows another one that fits on top of it."""

    def another(self) -> Self: ...


B = TypeVar("B", bound=_Residual)


@runtime_checkable
class Growing(Protocol):
    """A network that declares stages; any `nn.Module` with these two can grow.

    What `grow_` adds has a name that depends on the stage sizes alone, not on the order in which
    stages grew, and weights from PyTorch's global generator. All other weights stay; a layer that
    reads a dense block becomes wider by columns of its own.
    """

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Modules a stage, from the input to the output, as they are now."""
        ...

    def grow_(self, stage: int, *, preserve: bool = False) -> nn.Module:
        """Add a module like the one beneath at the end of stage number `stage`; return it.

        With `preserve` the network computes in eval mode what it computed before (to rounding).
        Callers use `prunus.models.grow_`, which looks at the arguments and at the device.

        Raises:
            ConfigError: with `preserve`, where no such start exists.
        """
        ...


def stage_sizes(model: nn.Module) -> tuple[int, ...]:
    """Return how many modules each stage of a network has.

    Raises:
        ConfigError: it declares no stages.
    """
    return _growing(model).stage_sizes


def grow_(model: nn.Module, stage: int, *, preserve: bool = False) -> nn.Module:
    """Add a module like the one beneath at the end of stage number `stage`, from 0; return it.

    See `Growing`. The module is on the network's device, in its precision and mode.

    Raises:
        ConfigError: the network declares no stages, or not this one, or (with `preserve`) its
            modules cannot start as the identity.

    Example:
        >>> from prunus.models import build_model
        >>> net = build_model("resnet20", num_classes=10, input_shape=(3, 32, 32))
        >>> _ = grow_(net, 2, preserve=True)
        >>> stage_sizes(net)
        (3, 3, 4)
    """
    growing = _growing(model)
    stages = len(growing.stage_sizes)
    if not 0 <= stage < stages:
        raise ConfigError(
            f"stage {stage} of {type(model).__name__} was asked to grow, but its stages are "
            f"0 to {stages - 1}"
        )
    like = next(model.parameters())
    with torch.device(like.device):
        added = growing.grow_(stage, preserve=preserve)
    return added.to(like.dtype).train(model.training)


def grow_to_(model: nn.Module, sizes: Sequence[int], *, preserve: bool = False) -> None:
    """Grow a network to `sizes` modules a stage, stage by stage from the input.

    Raises:
        ConfigError: the network declares no stages, or other ones, or has more modules already.
    """
    present, wanted = stage_sizes(model), tuple(sizes)
    kind = type(model).__name__
    if len(wanted) != len(present):
        raise ConfigError(
            f"{kind} has stages of {_written(present)} modules, but the sizes {_written(wanted)} "
            f"came: give {len(present)} of them"
        )
    for stage, (old, new) in enumerate(zip(present, wanted, strict=True)):
        if new < old:
            raise ConfigError(
                f"{kind} has stages of {_written(present)} modules, and {_written(wanted)} would "
                f"make stage {stage} smaller: growing only adds, so give at least {old} there"
            )
    for stage, (old, new) in enumerate(zip(present, wanted, strict=True)):
        for _ in range(new - old):
            grow_(model, stage, preserve=preserve)


def split_sizes(spec: str) -> tuple[str, tuple[int, ...] | None]:
    """Return the name and the stage sizes of `NAME@I,J,K`, sizes None where there are none.

    Raises:
        ConfigError: what follows the @ of a registered name is not sizes.

    Example:
        >>> split_sizes("inception_v1@3,5,2")
        ('inception_v1', (3, 5, 2))
        >>> split_sizes("inception_v1")
        ('inception_v1', None)
    """
    found = _SIZED.fullmatch(spec)
    if found is not None:
        return found["name"], tuple(int(size) for size in found["sizes"].split(","))
    name, at, rest = spec.rpartition("@")
    if at and name in MODELS:
        raise ConfigError(
            f"{spec!r} gives {name} the stage sizes {rest!r}, expected numbers with commas and "
            "no spaces, as in inception_v1@3,5,2"
        )
    return spec, None


def sized_name(spec: str, sizes: Sequence[int]) -> str:
    """Return the spec of a network grown to `sizes`; sizes that `spec` has are replaced.

    Example:
        >>> sized_name("inception_v1@3,5,2", (3, 5, 3))
        'inception_v1@3,5,3'
    """
    return f"{split_sizes(spec)[0]}@{_written(sizes)}"


def add_residual_(
    stage: nn.Module,
    kind: type[B],
    *,
    draw: Callable[[nn.Module], None],
    last: Callable[[B], nn.Module],
    preserve: bool,
) -> B:
    """Add another of the last module of `stage`, a sequence of `kind`, at its end; return it.

    `draw` is called with it for its first weights. With `preserve` the layer that its residual
    branch ends in, `last` of it, is 0, so that it passes on what it reads.
    """
    assert isinstance(stage, nn.Sequential)
    beneath: Any = stage[-1]
    assert isinstance(beneath, kind)
    added = beneath.another()
    draw(module := cast(nn.Module, added))
    if preserve:
        zero_(last(added))
    stage.append(module)
    return added


def zero_(module: nn.Module) -> None:
    """Set a layer's weight and bias to 0: so a residual branch that ends in it starts at 0."""
    for parameter in module.parameters(recurse=False):
        nn.init.zeros_(parameter)


def identity_conv_(conv: nn.Conv2d) -> None:
    """Make a convolution of odd kernel that keeps its width and size pass its input on."""
    nn.init.dirac_(conv.weight, groups=conv.groups)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def identity_norm_(norm: nn.BatchNorm2d, beneath: nn.BatchNorm2d) -> None:
    """Make a BatchNorm that reads relu(`beneath`(·)) pass it on.

    y = (x − μ)/√(σ² + ε)·√(σ² + ε) + μ is x in eval mode for any μ and σ². They are what training
    mode will find, so that there, too, little changes: the moments of relu(z), z ~ N(β, γ²), which
    the norm beneath makes of its scale γ and shift β. With h = β/|γ|,

        μ = β Φ(h) + |γ| φ(h),   μ² + σ² = (β² + γ²) Φ(h) + β |γ| φ(h).
    """
    gamma, beta = beneath.weight.detach().double().abs().clamp(min=1e-12), beneath.bias.detach()
    beta = beta.double()
    h = beta / gamma
    Phi = torch.special.ndtr(h)
    phi = torch.exp(-h * h / 2) / (2 * torch.pi) ** 0.5
    mean = beta * Phi + gamma * phi
    variance = ((beta**2 + gamma**2) * Phi + beta * gamma * phi - mean**2).clamp(min=0)
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)


def widen_(
    module: nn.Module,
    extra: int,
    *,
    draw: Callable[[nn.Module], None] | None = None,
    preserve: bool = False,
) -> None:
    """Let the layers of `module` read `extra` more channels, after those they read now.

    Norms get new entries, convolutions and linear layers new columns; what they have stays. New
    columns come from PyTorch's own initialisation of the wider layer, or from `draw`, which is
    called with it; with `preserve` they are 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            _lengthen_(layer, extra)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            old, bias = layer.weight.detach(), layer.bias
            if isinstance(layer, nn.Conv2d):
                layer.in_channels += extra
            else:
                layer.in_features += extra
            wider = old.new_zeros(len(old), old.shape[1] + extra, *old.shape[2:])
            layer.weight = nn.Parameter(wider)
            if not preserve:
                layer.bias = None
                layer.reset_parameters()
                if draw is not None:
                    draw(layer)
                layer.bias = bias
            with torch.no_grad():
                layer.weight[:, : old.shape[1]] = old


def _lengthen_(norm: nn.BatchNorm2d, extra: int) -> None:
    more = nn.BatchNorm2d(extra).to(norm.weight)
    norm.num_features += extra
    for name in ("weight", "bias"):
        both = torch.cat([norm.get_parameter(name).detach(), more.get_parameter(name).detach()])
        norm.register_parameter(name, nn.Parameter(both))
    for name in ("running_mean", "running_var"):
        norm.register_buffer(name, torch.cat([norm.get_buffer(name), more.get_buffer(name)]))


def _growing(model: nn.Module) -> Growing:
    if isinstance(model, Growing):
        return model
    raise ConfigError(
        f"{type(model).__name__} declares no stages, so nothing says where it grows: take a "
        f"network of the families {', '.join(_families())} (`prunus models` shows stages), or "
        "give yours stage_sizes and grow_ (prunus.models.growth.Growing)"
    )


def _families() -> list[str]:
    """Return the files of the registered networks that define, or build, a growing class."""
    names = {MODELS[name].family for name in MODELS}
    return sorted(
        name
        for name in names
        for file in [sys.modules.get(f"prunus.models.families.{name}")]
        if any(isinstance(each, type) and hasattr(each, "grow_") for each in vars(file).values())
    )


def _written(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))
