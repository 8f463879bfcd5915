"""The page of scores as a reader meets it: opened from disk in Chromium, with the network off."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunus.reports import render_scores
from tests.reports.made_scores import CONFIG, ROWS, make_scores

WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
DRAWN = """[...document.querySelectorAll(".plot")].filter(
    plot => plot.querySelector(".trace, .point")).length"""
COLUMN = """[...document.querySelectorAll(".scores table")[0].tBodies[0].rows].map(
    row => Number(row.cells[{at}].textContent))"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "scores.html"
    path.write_text(render_scores(make_scores(), ROWS, CONFIG))
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_every_figure_is_drawn_quietly_and_offline(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width=width, scheme=scheme)
    assert browser.run(DRAWN) == 5
    said = browser.run("({...document.documentElement.dataset})")
    assert (said["errors"], said["drawn"], said["overflow"]) == ("0", "5", "no")
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.run(WIDE) is False
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    with Image.open(browser.screenshot(page.with_suffix(".png"), whole=True)) as shot:
        colours = {colour for _, colour in shot.convert("RGB").getcolors(1 << 24) or []}
    light, dark = {(0x2B, 0x6C, 0x99), (0xD9, 0x82, 0x2B)}, {(0x6F, 0xB4, 0xE2), (0xF0, 0xA3, 0x55)}
    worn, other = (light, dark) if scheme == "light" else (dark, light)
    assert worn <= colours
    assert not other & colours


def test_the_units_can_be_sorted_both_ways(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.run(COLUMN.format(at=0)) == list(range(1, 41))
    click = "document.querySelectorAll('.scores table')[0].querySelectorAll('button')[1].click()"
    browser.run(click)
    assert browser.run(COLUMN.format(at=1)) == list(range(40))
    browser.run(click)
    assert browser.run(COLUMN.format(at=1)) == list(range(39, -1, -1))
    assert browser.complaints() == []


def test_many_groups_open_a_batch_at_a_time(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "scores.html"
    path.write_text(render_scores(make_scores(groups=14, units=6), ROWS, CONFIG))
    browser.open(path, width=420)
    assert browser.run(DRAWN) == 14
    browser.run("document.querySelectorAll('#units > details')[0].open = true")
    wait = "new Promise(done => setTimeout(() => done(document.documentElement.dataset.drawn), 50))"
    for _ in range(100):
        if browser.run(wait) == "16":
            break
    assert browser.run(DRAWN) == 16
    assert browser.run(WIDE) is False
