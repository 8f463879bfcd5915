"""PyTorch's own format of exported programs, checked on the program that was read back."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from prunus.batches import flatten_tensors
from prunus.export.exportable import Exportable
from prunus.export.format import FORMATS, Format, Runner, one_or_all, program_of, quiet

__all__ = ["Pt2"]


class Pt2(Format):
    """One .pt2 file of `torch.export.save`; it runs without the network's Python code."""

    title = "torch.export"
    runtime = "torch.export.load"
    suffixes = (".pt2",)
    runs_code = True  # torch.export.load unpickles what the archive marks as pickled

    def check(self, network: Exportable, example: tuple[Tensor, ...]) -> None:
        """Read the network as `torch.export` does."""
        program_of(network, example)

    def write(self, network: Exportable, example: tuple[Tensor, ...], path: Path) -> None:
        """Write one .pt2 file."""
        program = program_of(network, example)
        with quiet():
            torch.export.save(program, path)

    def open(self, path: Path) -> Runner:
        """Read the program back, as a module."""
        with quiet():
            module = torch.export.load(path).module()

        def run(*tensors: Tensor) -> Tensor | list[Tensor]:
            with torch.no_grad():
                return one_or_all(flatten_tensors(module(*tensors)))

        return run


FORMATS.register("pt2")(Pt2())
