"""What a user sees of the objects of the data flow: how they print, and names they do not hold."""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import prunus
from prunus.core import PrunusError
from prunus.training import TrainConfig


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )


@pytest.fixture(scope="module")
def flow() -> dict[str, Any]:
    torch.manual_seed(0)
    model, loader = net(), [(torch.randn(12, 1, 6, 6), torch.arange(12) % 3) for _ in range(2)]
    groups = prunus.find_groups(model, loader[0][0][:1])
    statistics = prunus.collect(model, loader, groups, blocks=4)
    scores = prunus.score(groups, statistics)
    plan = prunus.make_plan(groups, scores, "macs=60%")
    untrained = prunus.PruneConfig(
        iterations=1, finetune=TrainConfig(epochs=0), final=TrainConfig(epochs=0), runtimes=()
    )
    report = prunus.prune(model, loader, "macs=60%", config=untrained)[1]
    receipt = prunus.apply_(net(), plan, statistics)
    diagnosis = prunus.diagnose(model, loader[0][0][:1])
    return {
        "Groups": groups,
        "Statistics": statistics,
        "Scores": scores,
        "Plan": plan,
        "Receipt": receipt,
        "Report": report,
        "Diagnosis": diagnosis,
    }


SHOWN = {
    "Groups": r"^Groups\(Sequential: 3 groups of 46 units; 599 params, 2,688 MACs; stays whole: 1",
    "Statistics": r"^Statistics\(24 images in 4 blocks, 3 layers, sampling='pixel'\)$",
    "Scores": r"^Scores\('stacked': 3 groups, 46 units, .* to .*\)$",
    "Plan": r"^Plan\(removes \d+ of \d+ units of \d groups, from \d modules\)$",
    "Receipt": r"^Receipt\(Sequential: 599 → \d+ params; 2 of 2 layers repaired, 0 BatchNorms",
    "Report": r"^Report\(Sequential: .* % validation accuracy, 599 → \d+ params, ",
    "Diagnosis": r"^Diagnosis\(Sequential: healthy; 3 groups can be pruned, ",
}


@pytest.mark.parametrize("name", SHOWN)
def test_an_object_says_in_one_line_what_it_is(flow: dict[str, Any], name: str) -> None:
    assert re.search(SHOWN[name], repr(flow[name])), repr(flow[name])
    assert "\n" not in repr(flow[name])
    assert len(repr(flow[name])) < 240


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_shows_a_table(flow: dict[str, Any], name: str) -> None:
    html = flow[name]._repr_html_()
    tree = ElementTree.fromstring(f"<div>{html}</div>")  # well-formed
    assert list(tree.iter("td"))
    assert "<script" not in html
    assert ("<svg" in html) == (name in {"Scores", "Plan", "Report", "Diagnosis"})


@pytest.mark.parametrize("name", ["Groups", "Statistics", "Scores"])
def test_what_holds_things_by_name_is_a_mapping(flow: dict[str, Any], name: str) -> None:
    held = flow[name]
    assert isinstance(held, Mapping)
    assert list(held) == list(held.keys())
    assert all(isinstance(key, str) and key in held for key in held)
    assert [held[key] for key in held] == list(held.values())
    assert len(held) == len(list(held))
    assert held.get("nope") is None
    assert "nope" not in held
    with pytest.raises(PrunusError, match=r"^unknown .* 'nope': the known ones are ") as raised:
        held["nope"]
    assert isinstance(raised.value, KeyError)
    assert all(key in str(raised.value) for key in held)
