"""The rankings in print: tables, the terminal, figures, the page."""

import io
import json
import re

import pytest
from rich.console import Console

from prunus.reports import print_scores, render_scores
from prunus.reports.canvas import KEPT, REMOVED
from prunus.reports.score.figures import gain_figure, unit_figure
from prunus.reports.score.tables import (
    could_go,
    group_summary,
    interval,
    layer_ranks,
    unit_row,
    verdict,
)
from tests.reports.made_scores import CONFIG, ROWS, Row, make_scores

NASTY = '<img src=x onerror="alert(1)">&amp;</script>'


def printed(content: Row, top: int = 3) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_scores(content, console, top=top)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().replace("\u00a0", " ")


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def without_intervals(content: Row) -> Row:
    for group in content["groups"]:
        group["low"] = group["high"] = [None] * group["units"]
    return content


def test_layers_are_ranked_and_keep_their_place() -> None:
    rows = layer_ranks(make_scores())
    assert [(row.module, row.place) for row in rows] == [("conv2", 2), ("conv3", 3), ("conv1", 1)]
    assert plain(rows[0].explained) == "50.0 % (48.0–52.0)"
    assert plain(rows[0].gain) == "+25.00 points"
    assert plain(rows[1].gain) == "−5.00 points"


def test_units_that_could_go_are_those_whose_interval_includes_0() -> None:
    group = make_scores()["groups"][0]
    assert could_go(group) == [unit % 8 == 0 for unit in range(40)]
    summary = group_summary(group)
    assert (plain(summary.size), plain(summary.free)) == ("40 channels", "5 (12 %)")
    first = unit_row(group, 1)
    assert first.unit == group["order"][0]
    assert first.free == (first.unit % 8 == 0)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.0123, 0.0101, 0.0145), "0.0123 (0.0101–0.0145)"),
        ((1.31e-7, 1.1e-7, 1.52e-7), "1.3 (1.1–1.5) × 10⁻⁷"),
        ((4e-6, 0.0, 1.8e-5), "4.0 (0–18) × 10⁻⁶"),
        ((0.5, 0.5, 0.5), "0.500"),
        ((0.0, 0.0, 0.0), "0"),
        ((0.25, None, None), "0.250"),
        ((None, None, None), "–"),
    ],
)
def test_a_cost_and_its_interval(numbers: tuple[float | None, ...], text: str) -> None:
    group = dict(zip(("costs", "low", "high"), ([number] for number in numbers), strict=True))
    assert plain(interval(group, 0)) == text


def test_the_verdict_names_the_layer_the_step_and_the_units() -> None:
    assert plain(verdict(make_scores())) == (
        "The input of conv2 explains the class labels best, 50.0 %. The largest gain is at "
        "conv2: +25.00 points. 15 of 120 units may cost nothing."
    )
    assert "units" not in verdict(without_intervals(make_scores()))


def test_the_terminal_has_80_columns_and_every_group() -> None:
    content = make_scores(groups=5)
    text = printed(content)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for group in content["groups"]:
        assert f"{group['name']}  40 channels, median" in text
        least, most = group["order"][0], group["order"][-1]
        assert re.search(rf"\b{least} +\S.*\b{most} +\S", text)
    assert "stem: no consumer has statistics" in text
    assert "fc: its outputs are the network's outputs" in text


def test_long_names_fold_and_are_never_cut() -> None:
    name = "blocks.11.attention.projection_out_of_the_head."
    text = printed(make_scores(name=name))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


@pytest.mark.parametrize(("top", "lines"), [(1, 1), (3, 3), (99, 40)])
def test_top_says_how_many_units(top: int, lines: int) -> None:
    content = make_scores(groups=1)
    text = printed(content, top)
    block = text[text.index("least valuable") : text.index("Not scored")]
    assert len(block.strip().splitlines()) == 1 + lines


def test_without_intervals_none_are_promised() -> None:
    text = printed(without_intervals(make_scores()))
    assert "may cost nothing" not in text
    page = render_scores(without_intervals(make_scores()), ROWS, CONFIG)
    assert "no intervals" in page
    assert "may cost nothing</span>" not in page


def test_steep_costs_are_drawn_on_a_logarithmic_axis() -> None:
    steep = unit_figure(make_scores(units=40)["groups"][0])
    assert steep.layout.yaxis.type == "log"
    flat = make_scores(units=4)["groups"][0]
    flat["low"] = [0.9 * cost for cost in flat["costs"]]
    assert unit_figure(flat).layout.yaxis.type is None


@pytest.mark.parametrize("units", [1, 8, 32, 33, 200])
def test_every_unit_is_a_point_in_the_colour_of_its_interval(units: int) -> None:
    group = make_scores(groups=1, units=units)["groups"][0]
    figure = unit_figure(group)
    blue, orange = figure.data[-2:]
    assert (blue.marker.color, orange.marker.color) == (KEPT, REMOVED)
    assert len(orange.x) == sum(could_go(group) or ())
    assert sorted([*blue.x, *orange.x]) == list(range(1, units + 1))
    assert (figure.data[0].fill == "toself") == (units > 32)
    first = int(re.findall(r"unit (\d+)", (blue if 1 in blue.x else orange).text[0])[0])
    assert first == group["order"][0]


def test_costs_of_nothing_and_unknown_costs_are_drawn() -> None:
    group = make_scores(groups=1, units=8)["groups"][0]
    zeros = {**group, **{key: [0.0] * 8 for key in ("costs", "low", "high")}}
    assert list(unit_figure(zeros).data[-1].y) == [0.0] * 8
    group["costs"][3] = group["low"][3] = group["high"][3] = None
    drawn = unit_figure(group)
    assert sum(len(trace.x) for trace in drawn.data[-2:]) == 7


def test_a_loss_is_orange_and_a_gain_blue() -> None:
    figure = gain_figure(make_scores()["layers"])
    assert figure.data[0].marker.color == (KEPT, KEPT, REMOVED)
    assert list(figure.layout.yaxis.ticktext) == ["conv1", "conv2", "conv3"]


def test_the_page_is_the_same_bytes_and_needs_nothing() -> None:
    page = render_scores(make_scores(), ROWS, CONFIG)
    assert page == render_scores(make_scores(), ROWS, CONFIG)
    own = page[: page.index("/**\n* plotly.js")]
    assert not re.findall(r'(?:src|href)="(?!#)', own)
    for text in ("conv2", "stacked, mu 0.2", "its outputs are", "1079 of the training split"):
        assert text in own


def test_names_stay_text() -> None:
    own = render_scores(make_scores(name=NASTY), ROWS, CONFIG)
    own = own[: own.index("/**\n* plotly.js")]
    assert "<img" not in own
    for spec in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', own):
        json.loads(spec)


def test_wide_groups_list_their_ends() -> None:
    page = render_scores(make_scores(groups=1, units=1000), ROWS, CONFIG)
    assert "the 600 between them" in page
    assert page.count('<td class="free">') == 400


def test_nothing_scored_is_said() -> None:
    content = {**make_scores(), "groups": [], "layers": []}
    page = render_scores(content, ROWS, CONFIG)
    assert "could not score any group" in page
    assert "No layer that reads a group was run" in page
    assert "Not scored" in printed(content)
