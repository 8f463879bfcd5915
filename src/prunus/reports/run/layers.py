"""Which layers the complexity figures show, as in [Tian, Figures 3-14 to 4-13]."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.core import Row

__all__ = ["lone_convolutions", "multiplying"]


def multiplying(layers: Sequence[Row]) -> list[Row]:
    """Return the layers with MACs, i.e. convolutions and linear layers, in order.

    Norms and the like follow the layer before them and cost almost nothing.
    """
    return [layer for layer in layers if layer["macs"][0] > 0]


def lone_convolutions(layers: Sequence[Row]) -> list[Row]:
    """Return the convolutions if their parameters would be invisible next to the other layers.

    That is the case if other layers have more than half of the dense parameters; otherwise the list
    is empty.
    """
    drawn = multiplying(layers)
    found = [layer for layer in drawn if "Conv" in layer["kind"]]
    whole, theirs = (sum(layer["params"][0] for layer in some) for some in (drawn, found))
    return found if 2 * theirs < whole else []
