"""The last hidden layer in print: figures, sentences, tables, both pages, the terminal."""

import io
import json
import re

import plotly.graph_objects as go
import pytest
from rich.console import Console

from prunus.reports import canvas, print_scores, render_page, render_scores
from prunus.reports.canvas import GHOST, KEPT, MUTED, PAGE, REMOVED
from prunus.reports.latent import words
from prunus.reports.latent.figures import (
    covariance_figure,
    dimension_figure,
    discriminant_figure,
    utility_figure,
    utility_histogram,
)
from prunus.reports.run import figures
from tests.reports.made_latent import make_cut, make_latent, make_traced
from tests.reports.made_scores import CONFIG, ROWS, Row, make_scores

NASTY = '<img src=x onerror="alert(1)">&amp;</script>'


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def own(page: str) -> str:
    """Return a page without plotly.js."""
    head, _, rest = page.partition("/**\n* plotly.js")
    return head + rest[rest.index("</script>") :]


def scores_page(latent: Row | None) -> str:
    return own(render_scores({**make_scores(), "latent": latent}, ROWS, CONFIG))


def test_a_covariance_with_signs_is_orange_below_0_and_blue_above() -> None:
    (drawn,) = covariance_figure(make_latent(), "between").data
    assert [list(row) for row in drawn.z] == make_latent()["covariances"]["between"]["cells"]
    assert (drawn.zmin, drawn.zmax) == (-0.75, 0.75)
    assert [colour for _, colour in drawn.colorscale] == [REMOVED, PAGE, KEPT]
    assert list(drawn.x) == list(drawn.y) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_blocks_have_their_own_edges_and_no_signs() -> None:
    figure = covariance_figure(make_latent(width=15, block=4, idle=1), "total")
    (drawn,) = figure.data
    assert list(drawn.x) == [0.5, 4.5, 8.5, 12.5, 14.5]  # the last block is half a block
    assert (drawn.zmin, drawn.zmax) == (0.0, 1.0)
    assert [colour for _, colour in drawn.colorscale] == [PAGE, KEPT]
    assert list(figure.layout.yaxis.range) == [14.5, 0.5]


def test_a_covariance_of_nothing_has_a_scale() -> None:
    latent = make_latent()
    latent["covariances"]["within"]["cells"] = [[0.0] * 5] * 5
    assert covariance_figure(latent, "within").data[0].zmax == 1.0


def test_the_histogram_counts_every_dimension_once() -> None:
    latent = make_latent(width=50, idle=4)
    kept, rest = utility_histogram(latent).data
    assert (kept.marker.color, rest.marker.color) == (KEPT, GHOST)
    assert (sum(kept.y), sum(rest.y)) == (3, 47)
    step = kept.width
    for value in (4.0, 2.0, 4 / 3):
        assert kept.y[min(int(value / step), len(kept.y) - 1)] >= 1
    assert kept.x[0] == pytest.approx(step / 2)
    assert len(kept.x) * step == pytest.approx(4.0)
    assert utility_histogram({**latent, "values": [0.0] * 50, "traced": None}).data[0].y[0] == 50


@pytest.mark.parametrize(("traced", "blue"), [(True, 3), (False, 6)])
def test_sorted_utilities_are_blue_as_far_as_they_are_kept(traced: bool, blue: int) -> None:
    (bars,) = utility_figure(make_latent(traced=traced)).data
    assert list(bars.y) == pytest.approx([4, 2, 4 / 3, 1, 0.8, 0])
    assert list(bars.marker.color) == [KEPT] * blue + [GHOST] * (6 - blue)
    assert bars.text[0].startswith("<b>dimension 5</b>")
    assert bars.text[5].startswith("<b>dimension 0</b>")


def test_the_running_sum_ends_at_the_whole() -> None:
    figure = discriminant_figure(make_latent())
    bars, line = figure.data
    assert list(bars.y) == [5.0, 3.0, 1.5, 0.5]
    assert list(line.y) == pytest.approx([50, 80, 95, 100])
    assert line.yaxis == "y2"
    assert figure.layout.yaxis.title.text == "eigenvalue"
    assert figure.layout.yaxis2.title.text == "running sum, %"
    assert list(discriminant_figure({"discriminants": [0.0, 0.0]}).data[1].y) == [0, 0]
    assert len(discriminant_figure({"discriminants": []}).data[0].y) == 0


def test_accuracy_has_both_curves_the_whole_and_the_choice() -> None:
    whole, pca, lda, ring = dimension_figure(make_traced()).data
    assert list(whole.y) == pytest.approx([96, 96])
    assert (whole.line.dash, whole.line.color) == ("dash", MUTED)
    assert (pca.line.color, lda.line.color) == (REMOVED, KEPT)
    assert list(lda.y) == pytest.approx([32, 64, 96, 96, 96, 96])
    assert list(pca.x) == [1, 2, 3, 4, 5, 6]
    assert (ring.x, ring.y) == ((3,), (pytest.approx(96),))
    assert plain(lda.text[0]) == "1 dimension: 32.00 %"
    between = {**make_traced(), "counts": [1, 2, 4, 8, 16, 32], "kept": 3}
    assert dimension_figure(between).data[3].y == (pytest.approx(96),)


def test_the_sentence_counts() -> None:
    assert plain(words.latent_sentence(make_latent())) == (
        "fc reads 6 dimensions, 1 constant; discriminants sum to 10.0, first two 80 %; "
        "3 kept by sensitivity."
    )
    latent = make_latent(traced=False) | {"constant": 0, "copies": 1, "discriminants": [2.5, 0.5]}
    assert words.latent_sentence(latent) == (
        "fc reads 6 dimensions, 1 copy; discriminants sum to 3.00."
    )
    latent |= {"copies": 2, "discriminants": [], "traced": make_traced() | {"by": "12"}}
    assert words.latent_sentence(latent) == "fc reads 6 dimensions, 2 copies; 3 kept as set."


def test_captions_say_the_numbers_of_their_figures() -> None:
    text = plain(words.covariance_caption(make_latent()))
    assert "75 % of the variance is between classes" in text
    assert "is 2.0 % of that on it" in text
    assert "1 dimension that is constant or copies" not in text
    assert "1 dimension, constant or a copy, is left out" in text
    assert "block" not in text
    text = plain(words.covariance_caption(make_latent(width=300, block=4, idle=3)))
    assert "With 297 dimensions, a cell is the mean magnitude of a block of 4 × 4" in text
    assert "3 dimensions, constant or copies, are left out" in text
    assert words.covariance_note(make_latent(), "within") == "±0.250"
    assert words.covariance_note(make_latent(block=2), "total") == "0 to 1.00"
    assert "3 of 6, and traced back over 1 079 images" in plain(
        words.utility_caption(make_latent())
    )
    text = plain(words.dimension_caption(make_traced()))
    assert "All 6 dimensions reach 96.00 %" in text
    assert "the 3 chosen reach 96.00 %, the same number of components 67.50 %" in text


def test_a_place_has_its_dimension_discriminant_and_accuracy() -> None:
    rows, hidden = words.latent_places(make_latent())
    assert hidden == 0
    first, fifth = ({k: plain(str(v)) for k, v in vars(rows[at]).items()} for at in (1, 4))
    assert list(first.values()) == ["2", "4", "2.00", "3.00", "8.00", "64.00 %", "45.00 %"]
    assert list(fifth.values()) == ["5", "1", "0.800", "–", "–", "96.00 %", "96.00 %"]
    rows, hidden = words.latent_places(make_latent(width=250, traced=False))
    assert (len(rows), hidden, rows[0].lda) == (200, 50, "–")


def test_scores_have_the_section_and_a_way_to_it() -> None:
    page = plain(scores_page(make_latent()))
    assert 'href="#latent"' in page
    names = re.findall(r'data-for="([^"]+)"', page)
    assert names.index("covariance-total") < names.index("utility-sorted")
    assert "latent-dimensions" in names
    assert "Σ<sub>b</sub>, ±0.750" in page
    assert "σ<sub>b</sub>²/σ<sub>w</sub>²" in page
    for figure in re.findall(r'<div class="plot"[^>]*>', page):
        assert 'role="img" aria-label="' in figure
    alone = scores_page(make_latent(traced=False))
    assert "latent-dimensions" not in alone
    assert "dropped</span>" not in alone
    assert "accuracy, LDA" not in alone


def test_without_it_the_page_says_why_or_nothing() -> None:
    said = scores_page({"absent": "the output is made by a, b: give a network with one head"})
    assert "Not measured: the output is made by a, b: give a network with one head." in said
    assert "covariance-total" not in said
    assert 'id="latent"' not in scores_page(None)


def test_nothing_alive_is_no_heat_map() -> None:
    latent = make_latent(width=3, idle=3, traced=False) | {"discriminants": [0.0, 0.0]}
    page = scores_page(latent)
    assert "covariance-total" not in page
    assert "discriminants sum to 0" in page


def test_names_stay_text() -> None:
    latent = make_latent() | {"head": NASTY}
    for page in (
        scores_page(latent),
        scores_page({"absent": NASTY}),
        own(render_page([make_cut(1) | {"head": NASTY}], CONFIG, None)),
    ):
        assert "<img" not in page
        assert "&lt;img" in page
        for spec in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page):
            json.loads(spec)


def test_the_terminal_says_it_in_80_columns() -> None:
    def printed(latent: Row | None) -> str:
        console = Console(file=io.StringIO(), width=80, color_system=None)
        print_scores({**make_scores(), "latent": latent}, console)
        assert isinstance(console.file, io.StringIO)
        return plain(console.file.getvalue())

    text = printed(make_latent())
    assert "fc reads 6 dimensions, 1 constant; discriminants sum to 10.0" in text
    assert max(map(len, text.splitlines())) <= 80
    for nothing in (None, {"absent": "two heads"}):
        assert "hidden layer" not in printed(nothing)


def test_a_run_shows_its_cuts_and_the_accuracies_of_the_last(journal: list[Row]) -> None:
    cuts = [make_cut(1), make_cut(2, width=5, grown=2.5)]
    page = plain(own(render_page([*journal, *cuts], CONFIG, None)))
    section = page[page.index('<section id="latent">') : page.index('<section id="scores">')]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section.split("<tr>")[2:]]
    assert cells == [
        ["1", "3 of 6", "2", "10.0", "80 %", "96.00 % of 96.00 %", "1 079"],
        ["2", "3 of 5", "2", "25.0", "80 %", "96.00 % of 96.00 %", "1 079"],
    ]
    assert "sum changed from 10.0 to 25.0" in section
    drawn = json.loads(re.findall(r'data-for="latent-dimensions">(.*?)</script>', section)[0])
    assert drawn["data"][1]["x"] == [1, 2, 3, 4, 5]
    anchors = re.findall(r'href="#(\w+)"', page)
    assert anchors == re.findall(r'<section id="(\w+)"', page)


def test_a_run_by_a_threshold_has_the_table_alone(journal: list[Row]) -> None:
    cut = make_cut(1) | {"by": "otsu"}
    del cut["accuracy"], cut["counts"]
    page = own(render_page([*journal, cut], CONFIG, None))
    assert 'id="latent"' in page
    assert "latent-dimensions" not in page
    assert 'id="latent"' not in own(render_page(journal, CONFIG, None))


def test_push_terms_are_drawn_where_epochs_have_them(journal: list[Row]) -> None:
    fits = [row for row in journal if row["event"] == "fit"]
    for at, epoch in enumerate(fits[0]["epochs"], start=1):
        epoch |= {"push_loss": 1.0 / at, "push_lda": 0.1 / at, "push_align": 0.0}
    shown = figures.training_figure(journal, "push")
    weighted, separation, alignment = shown.data
    assert list(weighted.y[:2]) == [1.0, 0.5]
    assert [y for y in separation.y if y is not None] == pytest.approx(
        [0.1 / at for at in range(1, 9)]
    )
    assert set(alignment.y) == {0.0, None}
    assert len(weighted.y) == sum(len(row["epochs"]) + 1 for row in fits)
    assert shown.layout.yaxis.type is None  # a term is 0
    page = own(render_page(journal, CONFIG, None))
    key = page[page.index("Push at the last hidden layer") : page.index('id="training-push"')]
    assert re.findall("</i>(.*?)</span>", key) == [
        "weighted sum",
        "separation of the classes (LDA)",
        "alignment",
    ]
    for epoch in fits[0]["epochs"]:
        epoch["push_align"] = None
    assert figures.training_figure(journal, "push").layout.yaxis.type == "log"


def test_without_push_there_is_no_such_figure(journal: list[Row]) -> None:
    assert "training-push" not in render_page(journal, CONFIG, None)


def test_every_colour_has_a_twin_for_the_dark_page() -> None:
    latent = make_latent()
    shown: list[go.Figure] = [covariance_figure(latent, "total"), dimension_figure(make_traced())]
    shown += [draw(latent) for draw in (utility_histogram, utility_figure, discriminant_figure)]
    text = "".join(figure.to_json() for figure in shown)
    found = set(re.findall(r'"(#[0-9a-f]{6})"', text))
    assert found <= {light for light, _ in canvas.PALETTE.values()}
    assert {KEPT, REMOVED, PAGE, GHOST} <= found
