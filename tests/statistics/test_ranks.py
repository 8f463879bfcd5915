"""Two processes that collect together hold what one process over all images would."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.two_processes as two
from prunus.statistics import Logits, Statistics, all_reduce_, broadcast_model_, collect, sampling
from prunus.statistics.ranks import gathered, rank_and_size, require_one_model, together
from prunus.statistics.teacher import make_teacher
from tests.graph.nets import build
from tests.statistics.oracles import assert_close

pytestmark = pytest.mark.slow  # two processes run to their end before the first


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let positions be drawn, in the ranks as here."""
    monkeypatch.setattr(sampling, "LEAST_SAMPLES", 10)
    monkeypatch.setattr(sampling, "SAMPLES_A_FEATURE", 10)


def numbers(statistics: Statistics) -> dict[str, Any]:
    """Return every number that statistics hold, by its place, in order."""
    found: dict[str, Any] = {
        "images": statistics.images,
        "block images": statistics.block_images,
        "order": list(statistics),
        "outputs": list(statistics.outputs),
    }
    for kind, blocks in (("scatter", statistics._blocks), ("dual", statistics._dual_blocks)):
        for b, block in enumerate(blocks):
            for name, sums in block.items():
                for part, value in vars(sums).items():
                    found[f"{kind} {b} {name} {part}"] = value
    for name, output in statistics.outputs.items():
        for part, value in vars(output).items():
            found[f"output {name} {part}"] = value
    return found


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("name", two.CASES)
def test_every_rank_holds_the_same_bits(name: str) -> None:
    first, second = (numbers(rank[name]) for rank in two.results())
    assert list(first) == list(second)
    assert [key for key in first if not same(first[key], second[key])] == []


@pytest.mark.parametrize("name", [name for name in two.CASES if name != "dual"])
def test_they_are_those_of_one_pass_over_all_images(name: str) -> None:
    """Batch by batch in turn, so that the drawn positions are the same too."""
    model, groups, shares = two.cases()[name]
    asked = {**two.CASES[name], "gradients": False, "ranges": False}
    loader = [batch for pair in zip(*shares, strict=False) for batch in pair] + shares[0][-1:]
    assert len(loader) == 9
    whole = collect(model, loader, groups, **asked)
    found = two.results()[0][name]
    assert found.images == whole.images == 54
    for consumer, scatter in whole.items():
        assert_close(found[consumer], scatter)


@pytest.mark.parametrize(
    "name", ["pixel", "few blocks", "uneven blocks", "outputs", "targets", "dual"]
)
def test_blocks_and_outputs_are_merged_as_by_merge(name: str) -> None:
    model, groups, shares = two.cases()[name]
    one, other = (collect(model, share, groups, **two.CASES[name]) for share in shares)
    expected, found = numbers(one.merge(other)), numbers(two.results()[0][name])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)
        else:
            assert found[key] == (pytest.approx(value) if isinstance(value, float) else value)


def test_drawn_positions_differ_between_ranks() -> None:
    """Each rank takes its part of the samples, not the same one once more."""
    model, groups, shares = two.cases()["patch"]
    found = two.results()[0]["patch"]
    whole = sum(collect(model, share, groups, sampling="patch")["mix"].samples for share in shares)
    assert found["mix"].samples < whole  # asked for as many in all, not as many a rank
    twice = collect(model, shares[0], groups, sampling="patch")
    assert not torch.allclose(found["mix"].mean, twice["mix"].mean, rtol=1e-3)


def test_drawn_labels_have_a_seed_a_rank() -> None:
    output = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    def loss(**seed: int) -> float:
        teacher = make_teacher("logits", build("plain"), output, (), **seed)
        return float(teacher.loss(output, torch.empty(0)))

    assert loss() == loss(seed=0) == float(Logits().loss(output, torch.empty(0)))
    assert loss(seed=1) != loss(seed=0)


def test_each_on_its_own_where_asked() -> None:
    model, groups, shares = two.cases()["pixel"]
    for rank, share in zip(two.results(), shares, strict=True):
        alone, expected = numbers(rank["alone"]), numbers(collect(model, share, groups))
        assert [key for key in expected if not same(alone[key], expected[key])] == []


@pytest.mark.parametrize(
    ("what", "rank", "text"),
    [
        ("no batch", 0, r"DataError: the calibration loader gave no batch"),
        ("no batch", 1, r"PrunusError: rank 0 failed, so all ranks stop: DataError: the cal"),
        ("no labels", 0, "balance=True needs class labels"),
        ("no labels", 1, "rank 0 failed, so all ranks stop: DataError: balance=True"),
        ("wrapped", 0, "nothing"),  # it is read inside its wrapper
        ("wrapped", 1, "nothing"),
        ("two ways", 0, "rank 1 sampled by 'patch', rank 0 by 'pixel'"),
        ("two ways", 1, "rank 1 sampled by 'patch', rank 0 by 'pixel'"),
        ("no plan", 0, "PlanError: rank 0 passed no plan"),
        ("no plan", 1, "PlanError: rank 0 passed no plan"),
    ],
)
def test_no_rank_waits_for_one_that_failed(what: str, rank: int, text: str) -> None:
    assert text in two.results()[rank][what]


def test_without_other_ranks_nothing_is_sent() -> None:
    model = build("plain")
    before = copy.deepcopy(model.state_dict())
    require_one_model(model)
    assert broadcast_model_(model) is model
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert (rank_and_size(), gathered(3), together(lambda: 4)) == ((0, 1), [3], 4)
    model, groups, shares = two.cases()["pixel"]
    statistics = collect(model, shares[0], groups)
    before = numbers(statistics)
    assert all_reduce_(statistics) is statistics
    assert all(same(value, before[key]) for key, value in numbers(statistics).items())
