"""The contract of every network of the registry.

Built for small images, it answers in the promised shape, trains, prunes to what its mask
computes, comes back from plan.json and its weights, and exports. By default the two smallest
networks of a family are asked, large ones apart, and the smallest is exported unless that takes
half a minute; with `--whole` every one is asked everything (half an hour on two cores).
"""

import copy
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunus.export import export_model, save_weights
from prunus.graph import Groups, find_groups
from prunus.models import MODELS, ModelEntry, build_model, load_weights_
from prunus.pipelines import list_models
from prunus.plan import Plan
from prunus.surgery import mask_, replay_, unsound_groups
from tests.conftest import random_plan, randomise_norms_

#: Side of the images that networks for large ones are tried on.
SIDE = 64
CLASSES = 10
#: Parameters from which the second network of a family is tested only with `--whole`.
LARGE = 8_000_000
#: 164 layers, half a minute each of export; only with `--whole`.
SLOW_EXPORTS = ("preact_resnet164",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--whole"):
        names = list(MODELS)
    elif metafunc.function is test_exports:
        names = [few[0] for few in asked().values() if few[0] not in SLOW_EXPORTS]
    else:
        names = [name for few in asked().values() for name in few]
    metafunc.parametrize("name", names)


@cache
def asked() -> dict[str, list[str]]:
    """Return the networks of each family that are tested by default, the smallest first."""
    families: dict[str, list[str]] = defaultdict(list)
    size = {row["name"]: row["params"] for row in list_models()}
    for name in sorted(MODELS, key=size.__getitem__):
        families[MODELS[name].family].append(name)
    return {
        family: [names[0], *(name for name in names[1:2] if size[name] < LARGE)]
        for family, names in families.items()
    }


class Case:
    """One network of the registry, its groups and a random plan of those that are sound."""

    def __init__(self, name: str) -> None:
        self.name, self.entry = name, MODELS[name]
        channels, height, width = self.entry.input_shape
        self.shape = channels, min(height, SIDE), min(width, SIDE)
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

    def cut(self) -> nn.Module:
        return replay_(copy.deepcopy(self.model), self.plan).eval()

    def promised(self) -> tuple[int, ...]:
        batch, channels, height, width = self.images.shape
        if self.entry.task == "classification":
            return batch, CLASSES
        return batch, channels, height * self.entry.scale, width * self.entry.scale


def test_keeps_its_promises(name: str, tmp_path: Path) -> None:
    case = Case(name)
    it_says_where_it_is_from(case.entry)
    it_answers_and_trains(case)
    it_is_built_alike_from_the_same_seed(case)
    assert len(case.groups) > 0
    assert case.unsound == {}
    it_is_cut_to_what_its_mask_computes(case)
    it_comes_back_from_its_plan_and_its_weights(case, tmp_path)


def test_exports(name: str, tmp_path: Path) -> None:
    case = Case(name)
    parity = export_model(case.cut(), case.images, tmp_path / "model.onnx", "onnx")
    assert parity.images == len(case.images)  # the gate has compared them, or raised


def it_says_where_it_is_from(entry: ModelEntry) -> None:
    assert len(entry.source) > 10
    assert entry.scale >= 1
    assert (entry.num_classes > 0) == (entry.task == "classification")


def it_answers_and_trains(case: Case) -> None:
    model = case.build(0).train()
    out = model(case.images)
    heads = [out] if isinstance(out, Tensor) else list(out)
    assert heads[0].shape == case.promised()
    sum(head.square().mean() for head in heads).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def it_is_built_alike_from_the_same_seed(case: Case) -> None:
    mine, its = case.build(3).state_dict(), case.build(3).state_dict()
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)


def it_is_cut_to_what_its_mask_computes(case: Case) -> None:
    with torch.no_grad():
        dense = case.model(case.images)
        masked = mask_(copy.deepcopy(case.model), case.plan)(case.images)
        cut = case.cut()(case.images)
    scale = max(1.0, float(masked.abs().max()))
    assert float((masked - dense).abs().max()) > 1e-6 * scale  # something was removed
    torch.testing.assert_close(cut / scale, masked / scale, atol=1e-5, rtol=0)


def it_comes_back_from_its_plan_and_its_weights(case: Case, tmp_path: Path) -> None:
    cut = case.cut()
    save_weights(cut, tmp_path / "model.safetensors")
    again = replay_(case.build(7), Plan.from_json(case.plan.to_json())).eval()
    load_weights_(again, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(again(case.images), cut(case.images))
