"""A consumer that runs several times is summed over its calls: against a twin without sharing."""

import pytest
import torch

from prunus.core.errors import DataError
from prunus.graph import find_groups
from prunus.statistics import Statistics, collect
from tests.graph import reused
from tests.statistics.oracles import Loader, assert_close, batches64

SIZES = ["pixel", "patch", "pool:2", "flatten:2"]
CASES = [(n, s) for n in reused.NETS for s in SIZES] + [("level", "flatten"), ("tokens", "flatten")]


def both(net: str, loader: Loader, **how) -> tuple[Statistics, Statistics]:
    """Return the statistics of a network and of its unrolled twin."""
    found = []
    for model in (reused.build(net), reused.unrolled(net)):
        groups = find_groups(model, loader[0][0][:1], inputs=False)
        found.append(collect(model, loader, groups, **how))
    return found[0], found[1]


def copies(net: str, name: str) -> list[str]:
    calls = reused.NETS[net].calls.get(name)
    return [name] if calls is None else [f"{name}.copies.{k}" for k in range(calls)]


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize(("net", "sampling"), CASES)
def test_the_sums_are_over_all_calls(net: str, sampling: str, balance: bool) -> None:
    mine, twin = both(net, batches64(2, 6), sampling=sampling, balance=balance, blocks=2)
    for name in mine:
        first, *rest = (twin[copy] for copy in copies(net, name))
        assert_close(mine[name], first.merge(*rest))
    assert mine.images == 12


@pytest.mark.parametrize("net", reused.NETS)
def test_gradients_and_ranges_are_over_all_calls(net: str) -> None:
    mine, twin = both(net, batches64(2, 6), gradients=True, ranges=True)
    for name, output in mine.outputs.items():
        first, *rest = (twin.outputs[copy] for copy in copies(net, name))
        for other in rest:
            first = first.merge(other)
        assert output.samples == first.samples
        for part in ("gradient", "taylor", "low", "high"):
            torch.testing.assert_close(getattr(output, part), getattr(first, part))


@pytest.mark.parametrize("net", ["siamese", "level"])
def test_kernels_are_summed_over_all_calls(net: str) -> None:
    mine, twin = both(net, batches64(2, 6), sampling="dual")
    first, other = (twin.duals[copy] for copy in copies(net, "a"))
    merged, found = first.merge(other), mine.duals["a"]
    assert found.batches == merged.batches == 4
    assert found.information == pytest.approx(merged.information)
    torch.testing.assert_close(found.removal, merged.removal)


def test_flattened_maps_of_two_sizes_are_refused() -> None:
    model, loader = reused.build("chain"), batches64(1, 4)
    groups = find_groups(model, loader[0][0][:1])
    with pytest.raises(DataError, match="module 'a' reads maps of several sizes"):
        collect(model, loader, groups, sampling="flatten")
