"""What every network of the registry promises.

Built for small images, it answers in the promised shape, trains, prunes to what its mask
computes, comes back from plan.json and its weights, and exports.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError
from prunus.export import export_model, save_weights
from prunus.graph import Groups, find_groups
from prunus.models import MODELS, ModelEntry, build_model, load_weights_
from prunus.plan import Plan
from prunus.surgery import mask_, replay_, unsound_groups
from tests.conftest import random_plan, randomise_norms_

#: Side of the images that networks for large ones are tried on.
SIDE = 64
CLASSES = 10


def shape_of(entry: ModelEntry) -> tuple[int, int, int]:
    channels, height, width = entry.input_shape
    return channels, min(height, SIDE), min(width, SIDE)


class Case:
    """One network of the registry, its groups and a random plan of those that are sound."""

    def __init__(self, name: str) -> None:
        self.name, self.entry = name, MODELS[name]
        self.shape = shape_of(self.entry)
        self.model = randomise_norms_(self.build(0)).eval()
        torch.manual_seed(1)
        self.images = torch.randn(2, *self.shape)
        groups = find_groups(self.model, self.images[:1], inputs=False)
        self.unsound = unsound_groups(groups, self.images[:1])
        self.groups: Groups = groups.without(self.unsound)
        self.plan = random_plan(self.groups, 0)

    def build(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        classes = CLASSES if self.entry.task == "classification" else None
        return build_model(self.name, num_classes=classes, input_shape=self.shape)

    def promised(self, images: Tensor) -> tuple[int, ...]:
        batch, channels, height, width = images.shape
        if self.entry.task == "classification":
            return batch, CLASSES
        return batch, channels, height * self.entry.scale, width * self.entry.scale


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_entry_says_where_it_is_from(case: Case) -> None:
    assert len(case.entry.source) > 10
    assert case.entry.scale >= 1
    assert (case.entry.num_classes > 0) == (case.entry.task == "classification")


def test_forward_and_backward(case: Case) -> None:
    model = case.build(0).train()
    out = model(case.images)
    heads = [out] if isinstance(out, Tensor) else list(out)
    assert heads[0].shape == case.promised(case.images)
    sum(head.square().mean() for head in heads).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_the_same_seed_builds_the_same_network(case: Case) -> None:
    mine, its = case.build(3).state_dict(), case.build(3).state_dict()
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_all_groups_are_sound(case: Case) -> None:
    assert len(case.groups) > 0
    assert case.unsound == {}


def test_the_cut_network_is_the_masked_one(case: Case) -> None:
    with torch.no_grad():
        dense = case.model(case.images)
        masked = mask_(copy.deepcopy(case.model), case.plan)(case.images)
        cut = replay_(copy.deepcopy(case.model), case.plan)(case.images)
    scale = max(1.0, float(masked.abs().max()))
    assert float((masked - dense).abs().max()) > 1e-6 * scale  # something was removed
    torch.testing.assert_close(cut / scale, masked / scale, atol=1e-5, rtol=0)


def test_reload_gives_the_same_network(case: Case, tmp_path: Path) -> None:
    cut = replay_(copy.deepcopy(case.model), case.plan).eval()
    save_weights(cut, tmp_path / "model.safetensors")
    again = replay_(case.build(7), Plan.from_json(case.plan.to_json())).eval()
    load_weights_(again, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(again(case.images), cut(case.images))


def test_exports(case: Case, tmp_path: Path) -> None:
    cut = replay_(copy.deepcopy(case.model), case.plan).eval()
    export_model(cut, case.images, tmp_path / "model.onnx", "onnx")
