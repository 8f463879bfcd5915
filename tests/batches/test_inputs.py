"""The arguments of a forward pass."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from torch import nn

from prunus.batches import Inputs
from prunus.core import DataError


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x, *, y=None):
        return self.layer(x if y is None else x + y)


def test_forms_of_an_example() -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    assert Inputs.of(x).args == (x,)
    assert Inputs.of((x, y)).args == (x, y)
    assert Inputs.of([x, y]).args == ([x, y],)  # a list is one argument, as in detection
    assert Inputs.of({"x": x, "y": y}).kwargs == {"x": x, "y": y}
    assert Inputs.of(UserDict(x=x)).kwargs == {"x": x}
    whole = Inputs((x,), {"y": y})
    assert Inputs.of(whole) is whole


def test_a_call_follows_the_network() -> None:
    net, x, y = Two(), torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(Inputs((x,), {"y": y}).like(net)(net), net(x.double(), y=y.double()))
    tokens = Inputs.of(torch.zeros(2, 3, dtype=torch.long)).like(net)
    assert tokens.tensors[0].dtype == torch.long


def test_first_examples() -> None:
    inputs = Inputs((torch.zeros(4, 3), {"mask": torch.ones(4)}), {"scale": torch.ones(7)})
    first = inputs.first(1)
    assert inputs.size == 4
    assert [tuple(t.shape) for t in first.tensors] == [(1, 3), (1,), (7,)]
    assert inputs.shapes() == "(4, 3), (4,), (7,)"


def test_detached_copies() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    tokens = torch.zeros(2, dtype=torch.long)
    copy, same = Inputs((x * 2, tokens)).detached(gradient=True).tensors
    assert copy.is_leaf
    assert copy.requires_grad
    assert not same.requires_grad
    assert not Inputs.of(x).detached().tensors[0].requires_grad


def test_no_batch() -> None:
    with pytest.raises(DataError, match="no tensor with a batch axis"):
        _ = Inputs.of((3, "a")).size
