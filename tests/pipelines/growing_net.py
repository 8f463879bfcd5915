"""A small network with two stages, as a user would write one, and one whose growing kills it."""

import multiprocessing
import os

import torch
from torch import Tensor, nn


def module(read: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(read, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


class Net(nn.Module):
    """Images (B, C, H, W) → 4 maps, pooled, 6 maps → logits (B, num_classes)."""

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [nn.Sequential(module(input_shape[0], 4)), nn.Sequential(module(4, 6))]
        )
        self.fc = nn.Linear(6 * 4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stages[0](x), 2)
        x = nn.functional.adaptive_max_pool2d(self.stages[1](x), 2)
        return self.fc(torch.flatten(x, 1))

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.stages)

    def grow_(self, stage: int, *, preserve: bool = False) -> nn.Module:
        width = (4, 6)[stage]
        self.stages[stage].append(module(width, width))
        return self.stages[stage][-1]


class OneStage(Net):
    """Only its second stage grows."""

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        return (len(self.stages[1]),)

    def grow_(self, stage: int, *, preserve: bool = False) -> nn.Module:
        return super().grow_(stage + 1, preserve=preserve)


class Dying(Net):
    """Ends a worker process that lets its second stage grow."""

    def grow_(self, stage: int, *, preserve: bool = False) -> nn.Module:
        if stage == 1 and multiprocessing.parent_process() is not None:
            os._exit(3)
        return super().grow_(stage, preserve=preserve)
