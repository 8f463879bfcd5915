"""Layers that a network writes as functions of parameters of its own: `x @ self.proj`.

Such a product is treated as a layer: an `nn.Linear` or `nn.ConvNd` that shares the parameter, is
registered nowhere, and is called in place of the function (`Calling`). Its name is the parameter's
path where that holds one row for each output, as layers do, and the path with `.T` where it holds
one column for each.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "FunctionalConv1d",
    "FunctionalConv2d",
    "FunctionalConv3d",
    "FunctionalLinear",
    "functional_layer",
    "is_functional",
    "place_of",
    "raw_weights",
    "set_functional_",
]

#: Of each module that holds parameters, the layers that they are; none refers to its owner.
_LAYERS: WeakKeyDictionary[nn.Module, dict[tuple[str, bool], Any]] = WeakKeyDictionary()


class FunctionalLinear(nn.Linear):
    """A product with a parameter of another module, or with one that is worked out from it.

    `source` is the parameter, (out, in), or (in, out) if it is `turned`; `given` what the network
    really multiplies by, in the layout of a layer's weight, while it is called.
    """

    source: nn.Parameter
    turned: bool
    given: Tensor | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's own name
        """Multiply by the parameter itself, so that it can be followed."""
        own = self.source.T if self.turned else self.source
        return F.linear(input, own if self.given is None else self.given)


class _Given:
    """A convolution with a parameter of another module, or with one worked out from it."""

    source: nn.Parameter
    turned = False
    given: Tensor | None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        used = weight if self.given is None else self.given
        made: Tensor = super()._conv_forward(input, used, bias)  # type: ignore[misc]
        return made


class FunctionalConv1d(_Given, nn.Conv1d):
    """A functional convolution over one axis."""


class FunctionalConv2d(_Given, nn.Conv2d):
    """A functional convolution over two axes."""


class FunctionalConv3d(_Given, nn.Conv3d):
    """A functional convolution over three axes."""


_CONVOLUTIONS: dict[int, Any] = {3: FunctionalConv1d, 4: FunctionalConv2d, 5: FunctionalConv3d}


def is_functional(module: nn.Module) -> bool:
    """Return whether a layer is a parameter of another module."""
    return isinstance(module, (FunctionalLinear, *_CONVOLUTIONS.values()))


def raw_weights(model: nn.Module) -> dict[int, str]:
    """Return the parameters that may be functional layers: the id of each, and its name.

    They are those of no layer of PyTorch's and of no other module, with an input and an output.
    """
    owners: dict[int, list[str]] = {}
    found: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        listed = isinstance(module, (nn.ParameterList, nn.ParameterDict))
        layer = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = f"{path}.{key}".lstrip(".")
            owners.setdefault(id(parameter), []).append(name)
            if kind.__module__.startswith("torch.nn.") and not listed:
                continue
            if (layer and key in ("weight", "bias")) or not 2 <= parameter.dim() <= 5:
                continue
            found[id(parameter)] = name
    return {key: name for key, name in found.items() if len(owners[key]) == 1}


def place_of(model: nn.Module, name: str) -> tuple[nn.Module, str, bool]:
    """Return the module, the name there and whether it is turned, of the functional layer `name`.

    Raises:
        AttributeError: there is no parameter that can be one.
    """
    turned = name.endswith(".T")
    parent, _, key = name.removesuffix(".T").rpartition(".")
    owner = model.get_submodule(parent)
    parameter = owner._parameters.get(key)
    if parameter is None or not 2 <= parameter.dim() <= (2 if turned else 5):
        raise AttributeError(f"{name!r} is neither a module nor a parameter that is a layer")
    return owner, key, turned


def functional_layer(model: nn.Module, name: str) -> Any:
    """Return the layer in a parameter; it shares its numbers with it, and is always the same one.

    Raises:
        AttributeError: there is no parameter that can be one.
    """
    owner, key, turned = place_of(model, name)
    source = owner._parameters[key]
    assert source is not None
    held = _LAYERS.setdefault(owner, {})
    made = held.get((key, turned))
    if made is None:
        if source.dim() == 2:
            made = FunctionalLinear(1, 1, bias=False, device="meta")
            made.turned = turned
        else:
            made = _CONVOLUTIONS[source.dim()](1, 1, 1, bias=False, device="meta")
        made.given = None
        held[key, turned] = made
    weight, gradient = source.detach().T if turned else source, source.grad
    if not turned:
        made.weight = source
    elif (
        made.__dict__.get("source") is not source
        or made.weight.data_ptr() != weight.data_ptr()
        or made.weight.shape != weight.shape
    ):
        made.weight = nn.Parameter(weight, requires_grad=source.requires_grad)
    if turned:
        made.get_parameter("weight").grad = None if gradient is None else gradient.detach().T
    made.__dict__["source"] = source  # not registered: the weight is
    if isinstance(made, FunctionalLinear):
        made.out_features, made.in_features = weight.shape
    else:
        made.out_channels, made.in_channels = weight.shape[:2]
        made.kernel_size = tuple(weight.shape[2:])
    return made.train(owner.training)


def set_functional_(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Write the weight of a functional layer that was cut back into the module that holds it."""
    owner, key, turned = place_of(model, name)
    old, weight = owner._parameters[key], layer.get_parameter("weight")
    assert old is not None
    if turned:
        grad = weight.grad
        weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=old.requires_grad)
        weight.grad = None if grad is None else grad.T.contiguous()
    owner._parameters[key] = weight
    functional_layer(model, name)
