"""A linear layer that reads a chosen subset of its input features.

Channels are removed where they are made. Input pixels and single positions of a flattened feature
map cannot be: the image arrives whole, and the other positions of the same channel stay. Those
units are removed where they are *read*, by a layer that selects its inputs.
"""

# No `from __future__ import annotations`: TorchScript reads those of `SelectLinear`.

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import type_before_parametrizations

from prunus.modules.copies import private_copy
from prunus.modules.reparametrised import bake_
from prunus.modules.scripts import hide_scripts_

__all__ = ["SelectLinear", "can_select", "read_all_", "select_", "widen"]


class SelectLinear(nn.Linear):
    """y = W·x[index] + b: a linear layer over the features `index` of its input.

    Shapes: x (..., incoming) → (..., out_features); W (out_features, len(index)).
    `index` is a buffer, so it is saved with the weights and counts as bytes, not as parameters.
    `select_` turns a layer into one in place.
    """

    index: Tensor
    incoming: int

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's own name
        """Select, then map."""
        return F.linear(input.index_select(-1, self.index), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Add the number of incoming features."""
        return f"{super().extra_repr()}, incoming={self.incoming}"


def can_select(module: nn.Module) -> bool:
    """Return whether a linear layer may read a subset of its input: it computes W·x + b, no more.

    A subclass with its own forward pass computes something else of its whole input.
    """
    own = type(module).forward
    return isinstance(module, nn.Linear) and own in (nn.Linear.forward, SelectLinear.forward)


def select_(module: nn.Linear, index: Tensor, incoming: int) -> None:
    """Let a linear layer read the features `index` of `incoming` ones, in place.

    Its weight already has one column for each of them. Hooks, attributes and other references to
    the layer stay.
    """
    if not isinstance(module, SelectLinear):
        module.former_class = type(module)  # type: ignore[assignment]
        module.__class__ = SelectLinear
    module.incoming = incoming  # type: ignore[assignment]
    module.register_buffer("index", index.to(module.weight.device, torch.int32))
    module.in_features = len(index)


def read_all_(module: nn.Linear) -> None:
    """Undo `select_`: the layer reads every feature of its input again, in place."""
    if not isinstance(module, SelectLinear):
        return
    module.__class__ = module.__dict__.pop("former_class", nn.Linear)
    del module.__dict__["incoming"], module._buffers["index"]
    module._non_persistent_buffers_set.discard("index")


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module's weights keep their names once they are plain.

    Those of attentions and of modules that are no layer are then found as layers of their own.
    """
    kind = type_before_parametrizations(module)
    mixing = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
    return mixing or (kind.__module__.startswith("torch.nn.") and kind is not nn.MultiheadAttention)


def widen(model: nn.Module) -> nn.Module:
    """Return a copy in which every `SelectLinear` is a plain linear layer with zero columns.

    The copy computes the same function and can be traced like any other network: hooks work
    everywhere, because ScriptModules are wrapped, and weights are plain (`bake_`).

    Raises:
        TraceError: the network cannot be copied, or is a ScriptModule itself.
    """
    wide = hide_scripts_(private_copy(model))
    bake_(wide, {name for name, module in wide.named_modules() if _is_layer(module)})
    for module in wide.modules():
        if isinstance(module, SelectLinear):
            incoming, index = module.incoming, module.index.long()
            weight = module.weight.detach().new_zeros(module.out_features, incoming)
            weight[:, index] = module.weight.detach()
            read_all_(module)
            module.weight = nn.Parameter(weight, module.weight.requires_grad)
            module.in_features = incoming
    return wide
