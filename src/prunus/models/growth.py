"""Networks that grow: a copy of the last module of a stage, at its end.

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
from prunus.modules import rolling_back

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
    """A module of a residual stage, which can create another one that fits on top of it."""

    def another(self) -> Self: ...


B = TypeVar("B", bound=_Residual)


@runtime_checkable
class Growing(Protocol):
    """A network that declares stages; any `nn.Module` with these two members can grow.

    What `grow_` adds has a name that depends only on the stage sizes, not on the order in which
    stages grew, and weights from PyTorch's global generator. All other weights stay; a layer that
    reads a dense block gets additional columns.
    """

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """The current number of modules per stage, from the input to the output."""
        ...

    def grow_(self, stage: int, *, preserve: bool = False) -> nn.Module:
        """Add a copy of the last module, with new weights, at the end of stage `stage`; return it.

        With `preserve` the network computes the same function as before in eval mode (up to
        rounding). Callers use `prunus.models.grow_`, which checks the arguments and the device.

        Raises:
            ConfigError: with `preserve`, if no such start exists.
        """
        ...


def stage_sizes(model: nn.Module) -> tuple[int, ...]:
    """Return how many modules each stage of a network has.

    Raises:
        ConfigError: the network declares no stages.
    """
    return _growing(model).stage_sizes


def grow_(model: nn.Module, stage: int, *, preserve: bool = False) -> nn.Module:
    """Add a copy of the last module, with new weights, to stage `stage`, from 0; return it.

    See `Growing`. The module has the network's device, precision and mode. All or nothing: whatever
    is raised, the network is as it was.

    Raises:
        ConfigError: the network declares no stages or not this one, or (with `preserve`) its
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
            f"stage {stage} of {type(model).__name__} does not exist: its stages are 0 to "
            f"{stages - 1}"
        )
    like = next(model.parameters())
    with rolling_back(model), torch.device(like.device):
        added = growing.grow_(stage, preserve=preserve)
        return added.to(like.dtype).train(model.training)


def grow_to_(model: nn.Module, sizes: Sequence[int], *, preserve: bool = False) -> None:
    """Grow a network to `sizes` modules per stage, stage by stage from the input.

    Raises:
        ConfigError: the network declares no stages or other ones, or already has more modules.
    """
    present, wanted = stage_sizes(model), tuple(sizes)
    kind = type(model).__name__
    if len(wanted) != len(present):
        raise ConfigError(
            f"{kind} has stages of {_written(present)} modules, but the sizes {_written(wanted)} "
            f"were given: give {len(present)} of them"
        )
    for stage, (old, new) in enumerate(zip(present, wanted, strict=True)):
        if new < old:
            raise ConfigError(
                f"{kind} has stages of {_written(present)} modules, and {_written(wanted)} would "
                f"make stage {stage} smaller: growing only adds modules, so give at least {old} "
                "there"
            )
    with rolling_back(model):
        for stage, (old, new) in enumerate(zip(present, wanted, strict=True)):
            for _ in range(new - old):
                grow_(model, stage, preserve=preserve)


def split_sizes(spec: str) -> tuple[str, tuple[int, ...] | None]:
    """Return the name and the stage sizes of `NAME@I,J,K`, with None if there are no sizes.

    Raises:
        ConfigError: the text after the @ of a registered name is not a list of sizes.

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
    """Return the spec of a network grown to `sizes`; existing sizes in `spec` are replaced.

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
    """Append a new module like the last of `stage`, a sequence of `kind`; return it.

    `draw` is called with it to initialise its weights. With `preserve` the last layer of its
    residual branch, named `last`, is 0, so that it passes its input on.
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
    """Set a layer's weight and bias to 0, so that a residual branch ending in it starts at 0."""
    for parameter in module.parameters(recurse=False):
        nn.init.zeros_(parameter)


def identity_conv_(conv: nn.Conv2d) -> None:
    """Turn a convolution with an odd kernel that keeps width and size into the identity."""
    nn.init.dirac_(conv.weight, groups=conv.groups)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def identity_norm_(norm: nn.BatchNorm2d, beneath: nn.BatchNorm2d) -> None:
    """Turn a BatchNorm that reads relu(`beneath`(·)) into the identity.

    y = (x − μ)/√(σ² + ε)·√(σ² + ε) + μ is x in eval mode for any μ and σ². They are chosen as the
    expected batch statistics, so that little changes in training mode either: the moments of
    relu(z), z ~ N(β, γ²), which follows from the scale γ and shift β of the norm beneath. With h =
    β/|γ|,

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
    """Let the layers of `module` read `extra` more channels, after the current ones.

    Norms get new entries, convolutions and linear layers new columns; existing values stay. New
    columns come from PyTorch's initialisation of the wider layer, or from `draw`, which is called
    with it; with `preserve` they are 0.
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
        f"{type(model).__name__} declares no stages, so it cannot grow: use a network of the "
        f"families {', '.join(_families())} (`prunus models` shows stages), or "
        "give yours stage_sizes and grow_ (prunus.models.growth.Growing)"
    )


def _families() -> list[str]:
    """Return the files of the registered networks that define or build a growing class."""
    names = {MODELS[name].family for name in MODELS}
    return sorted(
        name
        for name in names
        for file in [sys.modules.get(f"prunus.models.families.{name}")]
        if any(isinstance(each, type) and hasattr(each, "grow_") for each in vars(file).values())
    )


def _written(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))
