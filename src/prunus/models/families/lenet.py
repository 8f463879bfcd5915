"""The two LeNets of the pruning literature.

Source: [LeNet] (LeNet-300-100); the LeNet of the MNIST example of [Caffe] (LeNet-5). Exact counts:
docs/theory.md, section 18.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError
from prunus.models.registry import register_model

__all__ = ["LeNet5", "LeNet300"]


class LeNet300(nn.Module):
    """LeNet-300-100: three fully connected layers, 266 610 parameters at 1×28×28.

    Shapes: (B, C, S, S) → (B, num_classes), C = `in_channels`, S = `image_size`.

    Example:
        >>> sum(p.numel() for p in LeNet300().parameters())
        266610
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * image_size**2, 300)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(300, 100)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, C, S, S)."""
        x = torch.flatten(x, 1)  # (B, C·S·S)
        x = self.relu1(self.fc1(x))  # (B, 300)
        x = self.relu2(self.fc2(x))  # (B, 100)
        return self.fc3(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class LeNet5(nn.Module):
    """Caffe's LeNet-5: no ReLU after the convolutions; 431 080 parameters at 1×28×28.

    Shapes: (B, C, S, S) → (B, num_classes), C = `in_channels`, S = `image_size` ≥ 16.

    Raises:
        ConfigError: the image is smaller than 16 × 16, so that nothing is left after pooling.

    Example:
        >>> sum(p.numel() for p in LeNet5().parameters())
        431080
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2  # after conv 5×5, pool, conv 5×5, pool
        if side < 1:
            raise ConfigError(
                f"images of {image_size}×{image_size} were requested, but the convolutions of "
                "lenet5 need at least 16×16: resize the images"
            )
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side**2, 500)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, C, S, S); comments are for S = 28."""
        x = F.max_pool2d(self.conv1(x), 2)  # (B, 20, 12, 12)
        x = F.max_pool2d(self.conv2(x), 2)  # (B, 50, 4, 4)
        x = torch.flatten(x, 1)  # (B, 800)
        x = self.relu(self.fc1(x))  # (B, 500)
        return self.fc2(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


@register_model("lenet300", source="LeCun et al. 1998, LeNet-300-100", input_shape=(1, 28, 28))
def lenet300(*, num_classes: int, input_shape: tuple[int, int, int]) -> LeNet300:
    """Return a LeNet-300-100 for square images of `input_shape`."""
    return LeNet300(num_classes, input_shape[0], _side("lenet300", input_shape))


@register_model(
    "lenet5", source="LeCun et al. 1998, as in Caffe's MNIST example", input_shape=(1, 28, 28)
)
def lenet5(*, num_classes: int, input_shape: tuple[int, int, int]) -> LeNet5:
    """Return a LeNet-5 for square images of `input_shape`."""
    return LeNet5(num_classes, input_shape[0], _side("lenet5", input_shape))


def _side(name: str, input_shape: tuple[int, int, int]) -> int:
    _, height, width = input_shape
    if height != width:
        raise ConfigError(f"{name} takes square images, not {height}×{width}: resize the images")
    return height
