"""The fully connected network of the thesis's toy experiment on MNIST.

Source: [Tian, section 4.3.1, Figure 4-5, Table 4-2] ("Base net", 4.0M):
hidden widths 1024-1024-1024-1024-32. The thesis names no activation; we use ReLU, through which its
method traces back. Exact count: docs/theory.md, section 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from prunus.models.registry import register_model

__all__ = ["HIDDEN", "MLP"]

#: Widths of the hidden layers; the last is the latent space that deep LDA uses.
HIDDEN = (1024, 1024, 1024, 1024, 32)


class MLP(nn.Module):
    """Linear layers with ReLU between them: 3 985 770 parameters at 784 inputs and 10 classes.

    Shapes: (B, …) with `in_features` numbers per example → (B, num_classes).

    Example:
        >>> sum(p.numel() for p in MLP().parameters())
        3985770
    """

    def __init__(
        self, num_classes: int = 10, in_features: int = 784, hidden: Sequence[int] = HIDDEN
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU()]
            in_features = width
        self.hidden = nn.Sequential(*layers)
        self.fc = nn.Linear(in_features, num_classes)
        # PyTorch's default weights halve the signal at each ReLU; six layers would lose it.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, C, H, W)."""
        x = torch.flatten(x, 1)  # (B, C·H·W)
        x = self.hidden(x)  # (B, 32)
        return self.fc(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


@register_model(
    "mlp_mnist", source="Tian's thesis, section 4.3.1, Table 4-2", input_shape=(1, 28, 28)
)
def mlp_mnist(*, num_classes: int, input_shape: tuple[int, int, int]) -> MLP:
    """Return the thesis's MLP for images of `input_shape`, of any size."""
    return MLP(num_classes, prod(input_shape))
