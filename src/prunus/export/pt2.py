"""PyTorch's own format of exported programs, checked on the program that was read back."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.export.format import FORMATS, INPUT, Format, Runner, quiet

__all__ = ["Pt2"]


class Pt2(Format):
    """One .pt2 file of `torch.export.save`; it runs without the network's Python code."""

    title = "torch.export"
    runtime = "torch.export.load"
    suffixes = (".pt2",)

    def write(self, network: nn.Module, example: Tensor, path: Path) -> None:
        """Write one .pt2 file."""
        dynamic = {INPUT: {0: torch.export.Dim("batch")}}
        with quiet():
            program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
            torch.export.save(program, path)

    def open(self, path: Path) -> Runner:
        """Read the program back, as a module."""
        with quiet():
            module = torch.export.load(path).module()

        def run(images: Tensor) -> Tensor:
            with torch.no_grad():
                output: Tensor = module(images)
            return output

        return run


FORMATS.register("pt2")(Pt2())
