"""Han's pruning, by sorting every weight of the network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunus.core.errors import ConfigError
from prunus.criteria import han_sparsity, score
from prunus.criteria.score import make_criterion
from prunus.graph import find_groups
from prunus.statistics import Statistics
from tests.graph.nets import NETS, build, images


def kernels(model: nn.Module) -> dict[str, torch.Tensor]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return {n: m.weight.detach() for n, m in model.named_modules() if isinstance(m, kinds)}


@given(net=st.sampled_from(sorted(NETS)), sparsity=st.floats(0, 0.99))
def test_the_smallest_weights_go_wherever_they_are(net: str, sparsity: float) -> None:
    model = build(net)
    report = han_sparsity(model, sparsity)
    every = sorted(
        (abs(w), name) for name, k in kernels(model).items() for w in k.flatten().tolist()
    )
    gone = int(sparsity * len(every))
    left = [name for _, name in every[gone:]]
    assert report.nonzero == {name: left.count(name) for name in kernels(model)}
    assert report.weights == {name: k.numel() for name, k in kernels(model).items()}
    assert report.sparsity == pytest.approx(gone / len(every))
    assert report.params == sum(p.numel() for p in model.parameters()) - gone


def test_nothing_is_cut() -> None:
    model = build("plain")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    han_sparsity(model, 0.5)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_unit_is_worth_what_is_left_of_it() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    values = score(groups, Statistics([{}], groups, 0), "magnitude", sparsity=0.6)["conv1"].values
    t = han_sparsity(model, 0.6).threshold
    for unit in range(8):
        made, read = model.conv1.weight[unit].double(), model.conv2.weight[:, unit].double()
        left = [w[w.abs() > t].square().sum() for w in (made, read)]
        expected = float((left[0] + left[1]).detach()) if min(left) > 0 else 0.0
        assert float(values[unit]) == pytest.approx(expected, rel=1e-6)


def test_a_unit_without_inputs_or_outputs_left_is_worth_nothing() -> None:
    model = build("mlp")
    with torch.no_grad():
        model.fc2.weight[2] *= 1e-6
        model.fc3.weight[:, 5] *= 1e-6
    groups = find_groups(model, images(1))
    values = score(groups, Statistics([{}], groups, 0), "magnitude", sparsity=0.2)["fc2"].values
    assert [u for u in range(8) if values[u] == 0] == [2, 5]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0])
def test_a_share_out_of_range(sparsity: float) -> None:
    with pytest.raises(ConfigError, match="expected a share in"):
        han_sparsity(build("mlp"), sparsity)
    with pytest.raises(ConfigError, match="expected a share in"):
        make_criterion("magnitude", sparsity=sparsity)


def test_a_network_without_weights() -> None:
    with pytest.raises(ConfigError, match="Sequential has no convolution or linear layer"):
        han_sparsity(nn.Sequential(nn.ReLU()), 0.5)
