"""Accuracy against latent dimensions, by masking them one set at a time."""

import copy

import pytest
import torch
from torch import nn

from prunus.core.errors import ConfigError, DataError
from prunus.evaluation import accuracy, enough_dimensions, latent_curve
from prunus.graph import find_groups
from prunus.models import build_model
from tests.graph.nets import batches, build, images


def sharp() -> nn.Module:
    """Return a network whose decisions depend on what its head reads, not on the bias."""
    net = build("residual")
    with torch.no_grad():
        net.head.weight.mul_(100)
    return net


def test_keeping_dimensions_is_masking_the_others() -> None:
    net = sharp()
    groups = find_groups(net, images(1))
    loader = batches(5, 16)
    order = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    bases = {"own": (torch.eye(8, dtype=torch.float64)[:, order], torch.zeros(8))}
    counts = [1, 2, 5, 8]
    found = latent_curve(net, loader, groups, bases, counts)["own"]
    for count, got in zip(counts, found, strict=True):
        masked = copy.deepcopy(net)
        with torch.no_grad():
            masked.head.weight[:, order[count:]] = 0
        assert got == accuracy(masked, loader)
    assert found[-1] == accuracy(net, loader)
    assert len(set(found)) > 1


def test_a_turned_basis_projects() -> None:
    net = sharp()
    groups = find_groups(net, images(1))
    loader = batches(5, 16)
    torch.manual_seed(0)
    V, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    c = torch.rand(8, dtype=torch.float64)
    found = latent_curve(net, loader, groups, {"turned": (V, c)}, [3, 8])["turned"]
    projected = copy.deepcopy(net)
    P = V[:, :3] @ V[:, :3].T
    projected.head = nn.Sequential(nn.Linear(8, 8), net.head)
    with torch.no_grad():
        projected.head[0].weight.copy_(P)
        projected.head[0].bias.copy_(c - P @ c)
    assert found == [accuracy(projected, loader), accuracy(net, loader)]


def test_a_head_that_selects_its_inputs_is_read_right() -> None:
    from prunus.plan import plan_units
    from prunus.surgery import replay_

    net = build("flatten")
    groups = find_groups(net, images(1))
    name = next(g.name for g in groups.values() if g.kind == "features")
    net = replay_(net, plan_units(groups, {name: [0, 3, 4]}))
    groups = find_groups(net, images(1))
    width = len(groups.consumers[groups.head].positions)
    bases = {"own": (torch.eye(width), torch.zeros(width))}
    assert latent_curve(net, batches(3, 8), groups, bases, [width])["own"] == [
        accuracy(net, batches(3, 8))
    ]


def test_enough_is_where_accuracy_stays() -> None:
    assert enough_dimensions([1, 2, 3, 4], [0.9, 0.5, 0.9, 0.9], 0.01) == 3
    assert enough_dimensions([1, 2, 3], [0.9, 0.9, 0.9], 0.0) == 1
    assert enough_dimensions([1, 2], [0.1, 0.9], 0.01) == 2


def test_other_heads_and_no_images_are_refused() -> None:
    net = build("residual")
    groups = find_groups(net, images(1))
    bases = {"own": (torch.eye(8), torch.zeros(8))}
    with pytest.raises(DataError, match="no image"):
        latent_curve(net, [], groups, bases, [8])
    squeeze = build_model("squeezenet", num_classes=4, input_shape=(3, 64, 64))
    groups = find_groups(squeeze, torch.zeros(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="needs a linear head"):
        latent_curve(squeeze, [], groups, {}, [1])
