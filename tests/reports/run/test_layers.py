"""Which layers are drawn, in which figures, and that the page's bars are the journal's numbers."""

import json
import re
from typing import Any

import pytest

from prunus.reports import render_page
from prunus.reports.run.layers import lone_convolutions, multiplying

Row = dict[str, Any]
NORM = {"module": "bn", "kind": "BatchNorm2d", "params": [40, 10], "macs": [0, 0]}
NORM |= {"out": [20, 5], "in": [20, 5]}


def layer(kind: str, params: int, macs: int = 1) -> Row:
    return {"module": kind, "kind": kind, "params": [params, params], "macs": [macs, macs]}


def layers_of(journal: list[Row]) -> list[Row]:
    return next(row for row in journal if row["event"] == "layers")["layers"]


def drawn(page: str) -> dict[str, Row]:
    """Return the figures of layers on a page: id → what plotly is given."""
    found = re.findall(r'data-for="layers-(\w+)">(.*?)</script>', page)
    return {name: json.loads(spec) for name, spec in found}


@pytest.mark.parametrize(
    ("kinds", "alone"),
    [
        ([("Conv2d", 10), ("Linear", 11)], ["Conv2d"]),
        ([("Conv2d", 10), ("Linear", 10)], []),  # half is not more than half
        ([("Conv2d", 10), ("Linear", 10), ("SelectLinear", 1)], ["Conv2d"]),
        ([("StdConv2d", 4), ("ConvTranspose2d", 5), ("Linear", 10)], None),
        ([("Linear", 10), ("Linear", 3)], []),
        ([("Conv2d", 10)], []),
        ([], []),
    ],
)
def test_convolutions_are_alone_where_the_rest_holds_more(
    kinds: list[tuple[str, int]], alone: list[str] | None
) -> None:
    layers = [layer(kind, params) for kind, params in kinds]
    expected = [kind for kind, _ in kinds[:2]] if alone is None else alone
    assert [found["kind"] for found in lone_convolutions(layers)] == expected


def test_norms_are_not_drawn_and_weigh_nothing() -> None:
    layers = [layer("Conv2d", 10), layer("BatchNorm2d", 100, macs=0), layer("Linear", 9)]
    assert [found["kind"] for found in multiplying(layers)] == ["Conv2d", "Linear"]
    assert lone_convolutions(layers) == []


def test_every_bar_of_the_page_is_its_row(journal: list[Row], config: Row) -> None:
    layers = layers_of(journal)
    layers.insert(1, NORM)
    figures = drawn(render_page(journal, config, None))
    assert list(figures) == ["params", "macs", "out", "convolutions"]
    multiply = [each for each in layers if each is not NORM]
    for name, spec in figures.items():
        key = "params" if name == "convolutions" else name
        rows = multiply[:2] if name == "convolutions" else multiply
        dense, left = spec["data"]
        assert dense["x"] == [row[key][0] for row in rows]
        assert left["x"] == [row[key][1] for row in rows]
        assert spec["layout"]["yaxis"]["ticktext"] == [row["module"] for row in rows]


def test_of_many_layers_outputs_are_folded(many_groups: list[Row], config: Row) -> None:
    page = render_page(many_groups, config, None)
    figures = drawn(page)
    assert list(figures) == ["params", "macs", "out"]  # all are convolutions
    assert all(len(spec["data"][0]["x"]) == 60 for spec in figures.values())
    before, _, after = page.partition("<summary>Outputs, layer by layer</summary>")
    assert 'id="layers-macs"' in before and 'id="layers-out"' in after
    for each in layers_of(many_groups)[10:]:
        each["kind"] = "Linear"
    page = render_page(many_groups, config, None)
    assert "Outputs, and parameters of the convolutions only, layer by layer" in page
    assert drawn(page)["convolutions"]["data"][0]["x"] == [36928] * 10
    layers_of(many_groups)[24:] = []
    assert "<summary>Outputs" not in render_page(many_groups, config, None)
