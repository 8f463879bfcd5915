from typing import Any

import pytest

from prunus.core.rows import trajectory
from prunus.reports import canvas
from prunus.reports.run import figures

Row = dict[str, Any]


def test_accuracy_shows_cuts_trained_points_and_the_finished_network(journal: list[Row]) -> None:
    won, cut, trained, finished = figures.accuracy_figure(journal, "params", "parameters").data
    assert trained.x[0] == 431080
    assert trained.x[-1] == cut.x[-1] == finished.x[0] == 42913
    assert len(trained.x) == 5
    assert len(cut.x) == 4
    assert list(won.x).count(None) == 4
    assert trained.y[0] == pytest.approx(98.61)
    assert finished.y[0] == pytest.approx(98.33)
    assert "431" in trained.text[0]


def test_the_size_axis_is_logarithmic_past_a_factor_ten(journal: list[Row]) -> None:
    params = figures.accuracy_figure(journal, "params", "parameters")
    macs = figures.accuracy_figure(journal, "macs", "MACs")
    assert params.layout.xaxis.type == "log"
    assert list(params.layout.xaxis.tickvals) == [50000, 100000, 200000]
    assert macs.layout.xaxis.type is None


def test_a_net_with_only_its_dense_score_has_one_point(journal: list[Row]) -> None:
    *_, trained = figures.accuracy_figure(journal[:4], "macs", "MACs").data
    assert list(trained.x) == [2293000]


def test_layers_say_their_numbers(journal: list[Row]) -> None:
    layers = next(row for row in journal if row["event"] == "layers")["layers"]
    before, after = figures.layer_figure(layers, "out", "outputs").data
    assert list(before.x) == [20, 50, 500, 10]
    assert list(after.x) == [5, 10, 60, 10]
    assert list(before.text) == ["5 of 20", "10 of 50", "60 of 500", "10"]


@pytest.mark.parametrize("key", ["out", "params", "macs"])
def test_a_layers_bars_are_its_row(journal: list[Row], key: str) -> None:
    layers = next(row for row in journal if row["event"] == "layers")["layers"]
    figure = figures.layer_figure(layers, key, "what is drawn")
    before, after = figure.data
    pairs = [layer[key] for layer in layers]
    assert [list(pair) for pair in zip(before.x, after.x, strict=True)] == pairs
    assert list(before.y) == list(after.y) == list(range(4))
    top, bottom = figure.layout.yaxis.range[::-1]
    assert top < 0
    assert bottom > 3  # the first layer stands on top
    assert figure.layout.barmode == "overlay"


def test_long_numbers_are_short_beside_their_bars(journal: list[Row]) -> None:
    layers = next(row for row in journal if row["event"] == "layers")["layers"]
    layers[1]["macs"] = [1_849_688_064, 711_244_800]
    before, after = figures.layer_figure(layers, "macs", "MACs").data
    assert (before.x[1], after.x[1]) == (1_849_688_064, 711_244_800)
    assert before.text[1].replace("\u00a0", " ") == "711 M of 1.85 G"


def test_layer_names_are_short_and_no_markup(journal: list[Row]) -> None:
    layers = next(row for row in journal if row["event"] == "layers")["layers"]
    layers[0]["module"], layers[1]["module"] = "<b>x</b>", "backbone." * 9 + "conv"
    text = figures.layer_figure(layers, "out", "outputs").layout.yaxis.ticktext
    assert text[0] == "&lt;b&gt;x&lt;/b&gt;"
    assert len(text[1]) == 26
    assert text[1].endswith("backbone.conv")


def test_what_a_layer_knows_is_drawn_over_what_is_left(journal: list[Row]) -> None:
    layers = trajectory(journal, "information")[0]["layers"]
    layers[1] |= {"low": -0.1, "high": 1.2}
    rest, known, sure = figures.knowledge_figure(layers).data
    assert list(rest.x) == [100, 100, 100]
    assert list(known.x) == pytest.approx([50, 75, 87.5])
    assert list(sure.y) == [0, 1]
    assert list(sure.error_x.array) == pytest.approx([2, 25])
    assert list(sure.error_x.arrayminus) == pytest.approx([2, 75])
    assert list(rest.text) == ["50.0\u00a0%", "75.0\u00a0%", "87.5\u00a0%"]


def test_scores_are_the_histograms_of_the_newest_cut(journal: list[Row]) -> None:
    newest = trajectory(journal, "prune")[4]["groups"][2]
    shown = figures.score_figures(journal)
    removed, kept = shown["fc1"].data
    assert list(shown) == ["conv1", "conv2", "fc1"]
    assert sum(kept.y) == newest["after"]
    assert sum(kept.y) + sum(removed.y) == newest["before"]
    edges = newest["histogram"]["edges"]
    assert kept.x[0] == pytest.approx((edges[0] + edges[1]) / 2)
    first = figures.score_figures(journal, iteration=1)["fc1"]
    assert sum(sum(bars.y) for bars in first.data) == 500
    assert figures.score_figures(journal[:4]) == {}


def test_equal_scores_still_give_a_bar(journal: list[Row]) -> None:
    group = trajectory(journal, "prune")[4]["groups"][0]
    group["histogram"] = {"edges": [0.5, 0.5], "kept": [3], "removed": [1]}
    assert all(bars.width[0] > 0 for bars in figures.score_figures(journal)["conv1"].data)


def test_training_has_every_epoch_and_a_line_a_phase(journal: list[Row]) -> None:
    loss = figures.training_figure(journal, "loss")
    (curve,) = loss.data
    assert [x for x in curve.x if x is not None] == list(range(1, 31))
    assert len(loss.layout.shapes) == 6
    labels = [note.text for note in loss.layout.annotations]
    assert labels == ["dense", "1", "2", "3", "4", "final"]
    training, validation = figures.training_figure(journal, "accuracy").data
    assert validation.y[-2] == pytest.approx(98.33)
    assert training.line.dash == "dot"


def test_many_phases_do_not_write_over_each_other(journal: list[Row]) -> None:
    fits = [{**journal[2], "phase": "iteration", "iteration": at} for at in range(100)]
    assert len(figures.training_figure(fits, "loss").layout.annotations) <= 12


def test_every_colour_has_a_twin_for_the_dark_page(journal: list[Row]) -> None:
    known = {light for light, _ in canvas.PALETTE.values()}
    text = "".join(figure.to_json() for figure in figures.score_figures(journal).values())
    text += figures.accuracy_figure(journal, "params", "parameters").to_json()
    layers = trajectory(journal, "information")[0]["layers"]
    text += figures.knowledge_figure(layers).to_json()
    found = {part[:7] for part in text.split('"') if part.startswith("#")}
    assert found <= known
    twins = [twin for pair in canvas.PALETTE.values() for twin in pair]
    assert len(set(twins)) == len(twins)
