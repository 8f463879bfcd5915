import copy

import numpy as np
import pytest
import torch
from torch import nn

from prunus.core.errors import ConfigError
from prunus.graph import find_groups
from prunus.models.xunit import Gaussian, XUnit
from prunus.surgery import mask_, replay_
from tests.conftest import random_plan, randomise_norms_

FORMS = ("original", "dxnet")


@pytest.mark.parametrize(
    ("form", "norm", "bias", "count"),
    [
        # C = 6, k = 5: depthwise 6·25, its bias 6, two BNs 4·6, mixing 36 and its bias 6
        ("original", False, False, 150),
        ("original", False, True, 156),
        ("original", True, True, 180),
        ("dxnet", False, False, 186),
        ("dxnet", False, True, 198),
        ("dxnet", True, False, 210),
        ("dxnet", True, True, 222),
    ],
)
def test_exact_parameter_counts(form, norm, bias, count):
    unit = XUnit(6, 5, form=form, norm=norm, bias=bias)
    assert sum(p.numel() for p in unit.parameters()) == count


def by_definition(unit: XUnit, x: np.ndarray, form: str, norm: bool) -> np.ndarray:
    """The equation of the docstring, one pixel at a time, in float64."""
    w = {name: t.double().numpy() for name, t in unit.state_dict().items()}

    def normalise(h, name):
        if not norm:
            return h
        mean, var, scale, shift = (
            w[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (h - mean) / np.sqrt(var + 1e-5) * scale + shift

    channels, height, width = x.shape
    h = x
    if form == "dxnet":
        h = np.einsum("oi,ihw->ohw", w["mix.weight"][:, :, 0, 0], x)
        h = h + w["mix.bias"][:, None, None]
    h = np.maximum(normalise(h, "norm1"), 0)
    kernel = w["depthwise.weight"][:, 0]
    r = kernel.shape[-1] // 2
    d = np.zeros_like(x)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                total = w["depthwise.bias"][c]
                for u in range(-r, r + 1):
                    for v in range(-r, r + 1):
                        if 0 <= i + u < height and 0 <= j + v < width:
                            total += kernel[c, r + u, r + v] * h[c, i + u, j + v]
                d[c, i, j] = total
    d = normalise(d, "norm2")
    gate = np.exp(-(d**2)) if form == "original" else 1 / (1 + np.exp(-d))
    return x * gate


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_is_its_equation(form, norm):
    torch.manual_seed(0)
    unit = randomise_norms_(XUnit(3, 5, form=form, norm=norm)).eval()
    x = torch.randn(1, 3, 6, 7)
    expected = by_definition(unit, x[0].double().numpy(), form, norm)
    np.testing.assert_allclose(unit(x)[0].detach().numpy(), expected, atol=1e-5)


def test_the_gaussian_is_one_at_zero_and_even():
    d = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    torch.testing.assert_close(
        Gaussian()(d), torch.tensor([np.exp(-4), np.exp(-1), 1, np.exp(-1), np.exp(-4)]).float()
    )


def test_only_dxnets_form_lets_maps_see_each_other():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8)
    changed = x.clone()
    changed[:, 0] += 1
    for form in FORMS:
        unit = randomise_norms_(XUnit(4, form=form)).eval()
        differs = (unit(x) != unit(changed)).flatten(2).any(2)[0].tolist()
        assert differs == [True, *[form == "dxnet"] * 3]


@pytest.mark.parametrize("kernel", [-3, 0, 4])
def test_kernels_without_a_middle_are_refused(kernel):
    with pytest.raises(ConfigError, match=rf"kernel of {kernel}×{kernel}.*use 7 or 9"):
        XUnit(4, kernel)


def test_unknown_forms_are_refused():
    with pytest.raises(ConfigError, match=r"no form 'slim': choose 'original' or 'dxnet'"):
        XUnit(4, form="slim")


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_gate_goes_with_the_channels_it_weighs(form, norm):
    torch.manual_seed(0)
    unit = XUnit(8, 5, form=form, norm=norm)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), unit, nn.Conv2d(8, 4, 3))
    net, x = randomise_norms_(net).eval(), torch.randn(2, 3, 9, 9)
    groups = find_groups(net, x[:1], inputs=False)
    (group,) = groups.values()
    made = {member.module for member in group.producers}
    layers = {"0", "1.depthwise"}
    layers |= {"1.norm1", "1.norm2"} if norm else set()
    layers |= {"1.mix"} if form == "dxnet" else set()
    assert made == layers
    plan = random_plan(groups, 0)
    masked = mask_(copy.deepcopy(net), plan)(x)
    cut = replay_(copy.deepcopy(net), plan)
    assert cut[0].out_channels == cut[1].depthwise.groups < 8
    assert not torch.allclose(masked, net(x))
    torch.testing.assert_close(cut(x), masked, atol=1e-5, rtol=0)
