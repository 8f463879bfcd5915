"""`scores.json`'s part on the last hidden layer, from the definition, on small networks."""

import json

import pytest
import torch

from prunus.core import to_json
from prunus.criteria import rank_layers, score
from prunus.graph import find_groups
from prunus.pipelines import ScoreConfig
from prunus.pipelines.scoring import content as score_content
from prunus.statistics import collect
from tests.criteria.discriminant.test_latent import scatters
from tests.graph.nets import batches, build, images
from tests.reports.made_scores import Row
from tests.statistics.oracles import gathered

CONFIG = ScoreConfig(model="made", data="made")


def content(name: str, traced: Row | None = None, edit: bool = False) -> tuple[Row, torch.Tensor]:
    """Return what is written of a network, and its three covariances by hand."""
    net = build(name)
    if edit:
        with torch.no_grad():
            net.conv2.weight[1], net.conv2.bias[1] = 0, 2.0
            net.conv2.weight[4], net.conv2.bias[4] = net.conv2.weight[3], net.conv2.bias[3]
    groups, loader = find_groups(net, images(1)), batches(6, 16)
    statistics = collect(net, loader, groups)
    found = score_content.score_content(
        CONFIG,
        groups,
        statistics,
        rank_layers(groups, statistics),
        score(groups, statistics, "l1"),
        traced,
    )["latent"]
    x, y = gathered(net, loader, "head")
    return json.loads(to_json(found)), torch.stack(scatters(x.double(), y)) / len(x)


def test_covariances_are_in_the_order_of_falling_utility() -> None:
    found, by_hand = content("residual")
    assert (found["head"], found["dimensions"], found["drawn"], found["block"]) == ("head", 8, 8, 1)
    _, within, between = by_hand
    order = torch.argsort(between.diagonal() / within.diagonal(), descending=True)
    assert found["order"] == order.tolist()
    for name, matrix in zip(("total", "within", "between"), by_hand, strict=True):
        one, sorted_ = found["covariances"][name], matrix[order][:, order]
        torch.testing.assert_close(
            torch.tensor(one["cells"], dtype=torch.float64), sorted_, rtol=1e-3, atol=1e-6
        )
        assert one["diagonal"] == pytest.approx(float(sorted_.diagonal().mean()), rel=1e-3)
        off = sorted_[~torch.eye(8, dtype=torch.bool)].abs().mean()
        assert one["beside"] == pytest.approx(float(off), rel=1e-3)
    assert found["values"] == sorted(found["values"], reverse=True)
    assert len(found["discriminants"]) == 3
    assert found["traced"] is None


def test_wide_ones_are_means_of_magnitudes_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_content, "CELLS", 3)  # 8 dimensions: blocks of 3, 3 and 2
    found, by_hand = content("residual")
    assert found["block"] == 3
    order = found["order"]
    magnitudes = by_hand[0][order][:, order].abs()
    cells = [[part.mean() for part in band.split(3, dim=1)] for band in magnitudes.split(3)]
    got = torch.tensor(found["covariances"]["total"]["cells"], dtype=torch.float64)
    torch.testing.assert_close(got, torch.tensor(cells, dtype=torch.float64), rtol=1e-3, atol=1e-6)


def test_constants_and_copies_are_counted_and_not_drawn() -> None:
    found, by_hand = content("plain", edit=True)
    assert (found["dimensions"], found["constant"], found["copies"], found["drawn"]) == (6, 1, 1, 4)
    assert sorted(found["order"][-2:]) == [1, 4]
    alive = found["order"][:4]
    got = torch.tensor(found["covariances"]["total"]["cells"], dtype=torch.float64)
    torch.testing.assert_close(got, by_hand[0][alive][:, alive], rtol=1e-3, atol=1e-6)


def test_of_the_row_of_a_choice_what_the_page_shows_is_taken() -> None:
    row = {"by": "otsu", "kept": 2, "traced_images": 96, "values": [1.0], "head": "head"}
    found, _ = content("residual", traced=row)
    assert found["traced"] == {"by": "otsu", "kept": 2, "traced_images": 96}
