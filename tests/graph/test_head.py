"""`head_groups` equals what `find_groups` returns for the head, with the same statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError
from prunus.graph import Groups, SelectLinear, find_groups, head_groups
from prunus.statistics import collect
from prunus.surgery import replay_
from tests.conftest import random_plan
from tests.graph.nets import NETS, SHAPE, batches, build

EXAMPLE = torch.zeros(1, *SHAPE)


def flat(hidden: int = 0) -> nn.Module:
    """A head behind a flattened image, or behind `hidden` channels of 10 × 10 flattened."""
    torch.manual_seed(0)
    before = [nn.Conv2d(3, hidden, 1), nn.ReLU()] if hidden else []
    return nn.Sequential(*before, nn.Flatten(), nn.Linear(100 * (hidden or 3), 5)).eval()


def same(model: nn.Module, found: Groups, whole: Groups) -> None:
    """Compare the head's consumer and the sums over images with those of the whole network."""
    assert found.heads == whole.heads
    assert list(found.consumers) == [whole.head]
    one, other = found.consumers[found.head], whole.consumers[whole.head]
    assert (one.module, one.incoming) == (other.module, other.incoming)
    assert one.positions.dtype == other.positions.dtype
    assert np.array_equal(one.positions, other.positions)
    alone = replace(whole, consumers={whole.head: other})
    sums = [collect(model, batches(), each, blocks=1)[whole.head] for each in (found, alone)]
    assert sums[0].samples > 0
    assert torch.equal(sums[0].S, sums[1].S)
    assert torch.equal(sums[0].D, sums[1].D)


@pytest.mark.parametrize("name", NETS)
def test_the_head_is_that_of_the_whole_network(name: str) -> None:
    model = build(name)
    same(model, head_groups(model, EXAMPLE), find_groups(model, EXAMPLE))


def test_an_auxiliary_head_is_none_and_the_model_stays_as_it_was() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(300, 8), nn.BatchNorm1d(8)
            self.aux, self.head = nn.Linear(8, 5), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = self.norm(self.fc(x.flatten(1))).relu()
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    model = Auxiliary().train()
    model.fc.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = head_groups(model, EXAMPLE)
    assert found.heads == ("head",)
    assert all(module.training for module in model.modules())
    assert not model.fc.weight.requires_grad
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    same(model, found, find_groups(model, EXAMPLE))


@pytest.mark.parametrize("hidden", [0, 4])
def test_a_head_that_selects_is_known_by_what_it_reads(hidden: int) -> None:
    model = flat(hidden)
    cut = replay_(model, random_plan(find_groups(model, EXAMPLE), seed=1))
    head = cut[-1]
    assert isinstance(head, SelectLinear)
    found = head_groups(cut, EXAMPLE)
    same(cut, found, find_groups(cut, EXAMPLE))
    consumer = found.consumers[found.head]
    assert len(consumer.positions) == len(head.index) < consumer.incoming == head.incoming


def test_a_head_too_wide_for_a_gram_is_folded_as_its_groups_are() -> None:
    model = flat(4)
    found = head_groups(model, EXAMPLE, feature_limit=50)
    assert found.consumers[found.head].positions.shape == (4, 100)
    same(model, found, find_groups(model, EXAMPLE, feature_limit=50))
    wide = head_groups(flat(), EXAMPLE, feature_limit=50)  # pixels fold into no channel
    assert wide.consumers[wide.head].wide


def test_there_must_be_one_head() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(300, 2), nn.Linear(300, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x.flatten(1)) + self.two(x.flatten(1))

    with pytest.raises(ConfigError, match=r"made by one, two: give a network with one head"):
        head_groups(Two(), EXAMPLE)
    with pytest.raises(ConfigError, match=r"no convolution or linear layer"):
        head_groups(nn.Sequential(nn.Flatten(), nn.ReLU()), EXAMPLE)
