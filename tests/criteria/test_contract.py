"""The contract of every criterion, over every kind of network."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError, UnknownNameError
from prunus.criteria import (
    CRITERIA,
    ExactDI,
    StackedConsumer,
    has_intervals,
    latent_utility,
    needs_of,
    score,
)
from prunus.criteria.score import make_criterion
from prunus.graph import Groups, find_groups
from prunus.statistics import Statistics, collect, trace_utility
from tests.graph.nets import CLASSES, NETS, batches, build, images
from tests.statistics.oracles import gathered

READY: dict[tuple[str, str], tuple[nn.Module, Groups, Statistics]] = {}
PARENTS = [[0, 0, 1, 1]]

#: Criteria that find nothing to look at in some groups, and say so in `Scores.skipped`.
MAY_SKIP = {"bn_scale", "deep_lda"}


def ready(net: str, sampling: str = "pixel") -> tuple[nn.Module, Groups, Statistics]:
    """Build, trace and collect once per network and sampling, with all that any criterion needs."""
    if (net, sampling) not in READY:
        model = build(net)
        groups = find_groups(model, images(1))
        statistics = collect(
            model,
            batches(4, 8),
            groups,
            sampling=sampling,
            parents=PARENTS,
            gradients=True,
            blocks=3,
        )
        chosen = latent_utility(groups, statistics).otsu()
        traces = trace_utility(model, batches(4, 8), groups, chosen)
        statistics = statistics.with_traces(traces)
        READY[net, sampling] = model, groups, statistics
    return READY[net, sampling]


#: Sampling is tried on criteria that read data; the others never see it.
SAMPLED = [
    (name, sampling)
    for name in CRITERIA
    for sampling in (("pixel", "patch") if make_criterion(name).needs_statistics else ("pixel",))
]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("name", "sampling"), SAMPLED)
def test_contract(name: str, net: str, sampling: str) -> None:
    model, groups, statistics = ready(net, sampling)
    before = copy.deepcopy(model.state_dict())
    sums = {n: s.gram.clone() for n, s in statistics.items()}
    scores = score(groups, statistics, name, intervals=False)
    assert scores.criterion == name
    assert set(scores.groups) | set(scores.skipped) == {g.name for g in groups.values()}
    assert all(scores.skipped.values())
    assert name in MAY_SKIP or not scores.skipped
    assert scores.unit
    again = score(groups, statistics, name, intervals=False)
    for group in groups.values():
        if group.name in scores.skipped:
            continue
        got = scores[group.name]
        assert got.values.shape == got.order.shape == got.costs.shape == (group.units,)
        assert got.values.dtype == got.costs.dtype == torch.float64
        assert torch.isfinite(got.values).all()
        assert got.values.min() >= 0
        assert got.costs.min() >= 0
        assert sorted(got.order.tolist()) == list(range(group.units))
        assert (got.values[got.order].diff() >= 0).all()
        assert (got.values >= got.costs).all()
        if got.steps is None:  # else it rises along the order of all that are scored together
            rising = got.costs[got.order].cummax(0).values
            assert torch.equal(got.values, got.costs.clone().index_copy_(0, got.order, rising))
        assert got.replicates is None
        assert torch.equal(got.values, again[group.name].values)
        assert torch.equal(got.order, again[group.name].order)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(torch.equal(sums[n], s.gram) for n, s in statistics.items())


@pytest.mark.parametrize("name", CRITERIA)
def test_intervals_keep_the_scores_and_add_a_replicate_a_block(name: str) -> None:
    _, groups, statistics = ready("residual", "patch")
    rule = make_criterion(name)
    if not has_intervals(rule):
        with pytest.raises(ConfigError, match="not kept in blocks"):
            score(groups, statistics, name, intervals=True)
        return
    plain = score(groups, statistics, name)
    scores = score(groups, statistics, name, intervals=True)
    for group, got in scores.groups.items():
        assert torch.equal(got.costs, plain[group].costs)
        assert got.replicates is not None
        assert got.replicates.shape == (3, len(got.costs))
        low, high = got.interval()
        assert (low <= got.costs).all()
        assert (got.costs <= high).all()
        varies = bool(got.replicates.std(0).max() > 0)
        assert varies == rule.needs_statistics


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_without_what_it_needs_says_how_to_collect_it(name: str) -> None:
    model, groups, _ = ready("plain")
    statistics = collect(model, batches(2, 8), groups, blocks=1)
    needs = needs_of(make_criterion(name))
    assert needs <= {"gradients", "parents", "traces"}
    if not needs:
        score(groups, statistics, name)
        return
    for need in needs:
        how = f"collect.*with_{need}" if need == "traces" else f"collect.*{need}="
        with pytest.raises(ConfigError, match=how):
            score(groups, statistics, name)


@pytest.mark.parametrize(
    "name", ["fdr", "diloss", "di", "stacked", "tfdr", "dfdr", "ridge_lse", "cherry", "structural"]
)
def test_the_scale_of_a_feature_does_not_matter(name: str) -> None:
    """fc2 reads channels 1000 times larger with weights 1000 times smaller."""
    model, groups, statistics = ready("mlp")
    other = copy.deepcopy(model)
    factor = torch.logspace(-3, 3, 16)
    with torch.no_grad():
        other.fc1.weight *= factor[:, None]
        other.fc1.bias *= factor
        other.fc2.weight /= factor
    other_groups = find_groups(other, images(1))
    scaled = score(other_groups, collect(other, batches(4, 8), other_groups, blocks=3), name)
    plain = score(groups, statistics, name)["fc1"]
    torch.testing.assert_close(scaled["fc1"].values, plain.values, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("name", ["di", "stacked"])
def test_dead_and_duplicate_units_go_first(name: str) -> None:
    model = build("plain")
    model.bn1 = nn.Identity()
    with torch.no_grad():
        model.conv1.bias = nn.Parameter(torch.zeros(8))
        model.conv1.weight *= 1e-2  # a dead channel is not to be judged by its offset
        model.conv1.weight[2] = 0
        model.conv1.bias[2] = 3.0  # constant, far from zero
        model.conv1.weight[6] = model.conv1.weight[5]  # duplicate
    groups = find_groups(model, images(1))
    scores = score(groups, collect(model, batches(6, 16), groups), name)["conv1"]
    first = scores.order[:2].tolist()
    assert first[0] == 2
    assert first[1] in (5, 6)
    other = 11 - first[1]
    assert float(scores.values[other]) > 20 * float(scores.values[first[1]])  # one copy is needed
    assert float(scores.values[2]) < 1e-9


@pytest.mark.parametrize("name", ["stacked", "di", "dcp", "cherry"])
def test_activations_too_small_for_float32_products_count_as_constant(name: str) -> None:
    """As a deep network without norms makes them: squares of 1e-23 underflow."""
    model = build("plain")
    model.bn1 = nn.Identity()
    with torch.no_grad():
        model.conv1.weight *= 1e-22
        model.conv1.weight[3] = 1
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(2, 2), groups)
    assert statistics["conv2"].constant.tolist() == [i != 3 for i in range(8)]
    scores = score(groups, statistics, name, intervals=True)
    assert all(scores[g.name].values.isfinite().all() for g in groups.values())
    assert int(scores["conv1"].order[-1]) == 3


def test_sums_that_are_no_gram_matrix_are_refused_in_one_sentence() -> None:
    from prunus.criteria.discriminant.elimination import discriminant_inverse

    scatter = ready("mlp")[2]["fc2"]
    apart = 1 - torch.eye(scatter.features)
    wrong = dataclasses.replace(scatter, gram=scatter.gram + 10 * scatter.gram.max() * apart)
    with pytest.raises(ConfigError, match="not positive definite in float64"):
        discriminant_inverse(wrong, 1e-3)


def test_exact_di_is_the_share_lost() -> None:
    from prunus.criteria.discriminant.elimination import discriminant_inverse

    _, groups, statistics = ready("mlp")
    scores = score(groups, statistics, "tfdr", ridge=1e-2)["fc2"]
    greedy = score(groups, statistics, "di", ridge=1e-2)["fc2"]
    scatter = statistics["fc3"]
    inverse, G = discriminant_inverse(scatter, 1e-2)
    total = (scatter.D / scatter.scale[:, None] * G).sum()
    expected = G.square().sum(1) / inverse.diagonal() / total
    torch.testing.assert_close(scores.values, expected)
    first = int(greedy.order[0])
    assert float(greedy.costs[first]) == pytest.approx(float(expected.min()))
    assert float(greedy.costs.sum()) == pytest.approx(1)  # to the last unit all of DI is lost


def test_stacked_adds_the_consumer_and_the_virtual_classifier() -> None:
    _, groups, statistics = ready("mlp")
    both = score(groups, statistics, "stacked", mu=0.7)["fc2"]
    real = StackedConsumer(mu=0.0).along(groups, groups["fc2"], statistics, both.order)
    virtual = ExactDI().along(groups, groups["fc2"], statistics, both.order)
    torch.testing.assert_close(both.costs, real + 0.7 * virtual)


def test_stacked_is_the_share_of_output_energy_that_least_squares_cannot_save() -> None:
    model, groups, statistics = ready("mlp")
    rule = StackedConsumer(mu=0.0, ridge=1e-9)
    (consumer,) = rule.states(groups, [groups["fc2"]], statistics)
    costs = consumer.costs(np.arange(8))
    x, _ = gathered(model, batches(4, 8), "fc3")
    x = x.double()
    x = x - x.mean(0)
    W = model.fc3.weight.detach().double()
    energy = float((x @ W.T).square().sum())
    for unit in range(8):
        keep = [i for i in range(8) if i != unit]
        target = x @ W.T
        V = torch.linalg.lstsq(x[:, keep], target, driver="gelsd").solution
        lost = float((target - x[:, keep] @ V).square().sum()) / energy
        assert costs[unit] == pytest.approx(lost, rel=1e-4, abs=1e-9)


def test_l1_and_l2_by_hand() -> None:
    model, groups, statistics = ready("residual")
    l1 = score(groups, statistics, "l1")["stem"].values
    by_hand = [
        float((model.stem.weight[u].abs().sum() + model.conv2.weight[u].abs().sum()).detach())
        for u in range(8)
    ]
    torch.testing.assert_close(l1, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-5, atol=0)
    l2 = score(groups, statistics, "l2")["conv1"].values
    by_hand = [
        (
            model.conv1.weight[u].square().sum()
            + model.bn1.weight[u].square()
            + model.conv2.weight[:, u].square().sum()
        ).item()
        / 3
        for u in range(5)
    ]
    torch.testing.assert_close(l2, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-5, atol=0)


def test_random_depends_on_its_seed() -> None:
    _, groups, statistics = ready("mlp")
    a, b = (score(groups, statistics, "random", seed=s)["fc1"].values for s in (0, 1))
    assert not torch.equal(a, b)


def test_an_unknown_criterion_lists_the_known() -> None:
    _, groups, statistics = ready("mlp")
    with pytest.raises(UnknownNameError, match=r"did you mean 'stacked'.*di, diloss, fdr"):
        score(groups, statistics, "staked")


def test_a_wrong_option_names_the_criterion() -> None:
    with pytest.raises(ConfigError, match=r"criterion 'di'.*alpha"):
        make_criterion("di", alpha=1)


def test_a_criterion_of_one_s_own() -> None:
    _, groups, statistics = ready("mlp")
    scores = score(groups, statistics, StackedConsumer(mu=0.0))
    assert scores.criterion == "StackedConsumer"
    expected = score(groups, statistics, "stacked", mu=0.0)["fc1"].values
    assert torch.equal(scores["fc1"].values, expected)


def test_a_group_without_statistics_is_skipped_by_name() -> None:
    _, groups, statistics = ready("mlp")
    narrow = {n: c for n, c in groups.consumers.items() if n != "fc2"}
    groups = dataclasses.replace(groups, consumers=narrow)
    scores = score(groups, statistics, "stacked")
    assert set(scores.skipped) == {"fc1"}
    assert "feature_limit" in scores.skipped["fc1"]
    assert set(scores.groups) == {"fc1.inputs", "fc2"}
    assert "fc1" in score(groups, statistics, "l1").groups


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("teacher", ["targets", "logits", "balanced"])
def test_other_teachers_are_scored_alike(teacher: str, name: str) -> None:
    model = build("residual")
    groups = find_groups(model, images(1))
    loader = batches(4, 8)
    if teacher == "targets":
        loader = [(x, F.one_hot(y, CLASSES) * 3.0 + x.mean((1, 2, 3))[:, None]) for x, y in loader]
    how = {"balance": True, "parents": PARENTS} if teacher == "balanced" else {"teacher": teacher}
    torch.manual_seed(0)  # gradients of logits are drawn
    statistics = collect(model, loader, groups, gradients=True, **how)
    statistics = statistics.with_traces(trace_utility(model, loader, groups, range(8)))
    if name == "granular" and teacher != "balanced":
        with pytest.raises(ConfigError, match="coarser classes"):
            score(groups, statistics, name)
        return
    for got in score(groups, statistics, name).groups.values():
        assert torch.isfinite(got.values).all()
        assert got.values.min() >= 0


class Auxiliary(nn.Module):
    """A head that runs only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.aux = nn.Linear(8, 4)
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.conv(x).relu()
        out = self.head(self.last(x).relu().mean((2, 3)))
        return (out, self.aux(x.mean((2, 3)))) if self.training else out


@pytest.mark.parametrize("name", ["di", "stacked", "fdr", "diloss"])
def test_a_consumer_that_did_not_run_has_no_say(name: str) -> None:
    torch.manual_seed(0)
    model = Auxiliary().eval()
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(4), groups)
    before = score(groups, statistics, name)["conv"].values
    with torch.no_grad():
        model.aux.weight.mul_(1000)
    assert torch.equal(score(groups, statistics, name)["conv"].values, before)
    assert before.max() < 10
