"""HSRN: blocks that split their channels and pass the result of each part to the next.

Source: [Kung-Hou, section 7.3, Figure 8], theory.md (84) (the block). The paper gives neither the
trunk nor a size. The trunk here is a reconstruction after Hou's public code for the same block
(groups of blocks with a skip each, one convolution after them with a long skip, pixel shuffles
without activation), without its scaling of residuals by 0.1; with biases it has 12 246 275
parameters.

Two and three consecutive 3×3 convolutions have receptive fields of 5×5 and 7×7 pixels, not the
paper's 9×9 and 27×27.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from prunus.models.families.srresnet import shuffle_up
from prunus.models.registry import register_restorer

__all__ = ["HSRN", "HierarchicalBlock", "ResidualGroup"]


class HierarchicalBlock(nn.Module):
    """[x₁ … x₄] = expand(x); s₁ = relu(conv₁(x₁)), s_k = relu(conv_k(x_k + s_{k−1})).

    The output is x + fuse([s₁ … s₄]), `expand` 1×1 from n to 4w, conv_k 3×3, `fuse` 3×3 from 4w
    to n. Shapes: (B, n, H, W) → the same; n = `width`, w = `part`, 4 = `parts`.
    """

    def __init__(self, width: int, part: int, parts: int = 4) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, parts * part, 1)
        self.convs = nn.ModuleList(nn.Conv2d(part, part, 3, padding=1) for _ in range(parts))
        self.relu = nn.ReLU()
        self.fuse = nn.Conv2d(parts * part, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        first, *rest = torch.chunk(self.expand(x), len(self.convs), dim=1)  # 4 × (B, w, H, W)
        made = [self.relu(self.convs[0](first))]
        for conv, part in zip(self.convs[1:], rest, strict=True):
            made.append(self.relu(conv(part + made[-1])))
        return x + self.fuse(torch.cat(made, dim=1))  # type: ignore[no-any-return]


class ResidualGroup(nn.Module):
    """x + block_m(… block₁(x)).

    Shapes: (B, `width`, H, W) → the same.
    """

    def __init__(self, width: int, part: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(HierarchicalBlock(width, part) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the group's output."""
        return x + self.blocks(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class HSRN(nn.Module):
    """`groups` residual groups of `blocks` hierarchical blocks, then pixel shuffles.

    Shapes: (B, `in_channels`, H, W) → (B, `in_channels`, s·H, s·W), s = `scale`.

    Raises:
        ConfigError: the scale is not a power of two.

    Example:
        >>> sum(p.numel() for p in HSRN(scale=4, groups=1, blocks=1).parameters())
        454979
    """

    def __init__(
        self,
        scale: int,
        in_channels: int = 3,
        *,
        width: int = 64,
        part: int = 32,
        groups: int = 10,
        blocks: int = 10,
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.body = nn.Sequential(
            *(ResidualGroup(width, part, blocks) for _ in range(groups)),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.up = shuffle_up(width, scale, relu=False)
        self.tail = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images at `scale` times the height and width."""
        x = self.head(x)  # (B, 64, H, W)
        x = x + self.body(x)
        x = self.up(x)  # (B, 64, s·H, s·W)
        return self.tail(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _hsrn(
    width: int, part: int, groups: int, blocks: int, *, input_shape: tuple[int, int, int]
) -> HSRN:
    return HSRN(4, input_shape[0], width=width, part=part, groups=groups, blocks=blocks)


register_restorer(
    "hsrn_x4",
    source="Kung & Hou 2020, X-Learning, section 7.3; 10 groups of 10 blocks",
    input_shape=(3, 24, 24),
    scale=4,
)(partial(_hsrn, 64, 32, 10, 10))
register_restorer(
    "hsrn_small_x4",
    source="ours: the HSRN of Kung & Hou 2020 with 2 groups of 2 blocks of 16 channels",
    input_shape=(3, 24, 24),
    scale=4,
)(partial(_hsrn, 16, 8, 2, 2))
