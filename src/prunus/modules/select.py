"""A linear layer that reads a chosen subset of its input features.

Channels are removed where they are made. Input pixels and single positions of a flattened feature
map cannot be: the image arrives whole, and the other positions of the same channel stay. Those
units are removed where they are *read*, by a layer that selects its inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.modules.copies import private_copy
from prunus.modules.kinds import exchange_
from prunus.modules.scripts import hide_scripts_

__all__ = ["SelectLinear", "widen"]


class SelectLinear(nn.Linear):
    """y = W·x[index] + b: a linear layer over the features `index` of its input.

    Shapes: x (..., incoming) → (..., out_features); W (out_features, len(index)).
    `index` is a buffer, so it is saved with the weights and counts as bytes, not as parameters.
    """

    index: Tensor

    def __init__(
        self, weight: Tensor, bias: nn.Parameter | None, index: Tensor, incoming: int
    ) -> None:
        """Read the features `index` of `incoming` ones with the columns of `weight`."""
        super().__init__(len(index), len(weight), bias=False, device="meta")
        self.incoming = incoming
        self.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
        self.bias = bias  # type: ignore[assignment]
        self.register_buffer("index", index.to(weight.device, torch.int32))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's own name
        """Select, then map."""
        return F.linear(input.index_select(-1, self.index), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Add the number of incoming features."""
        return f"{super().extra_repr()}, incoming={self.incoming}"


def widen(model: nn.Module) -> nn.Module:
    """Return a copy in which every `SelectLinear` is a plain linear layer with zero columns.

    The copy computes the same function and can be traced like any other network: hooks work
    everywhere, because ScriptModules are wrapped.

    Raises:
        TraceError: the network cannot be copied, or is a ScriptModule itself.
    """
    wide = hide_scripts_(private_copy(model))
    for name, module in list(wide.named_modules()):
        if isinstance(module, SelectLinear):
            plain = nn.Linear(module.incoming, module.out_features, module.bias is not None).to(
                module.weight
            )
            with torch.no_grad():
                plain.weight.zero_()
                plain.weight[:, module.index.long()] = module.weight
                if module.bias is not None:
                    plain.bias.copy_(module.bias)
            exchange_(wide, name, plain)
    return wide
