"""The last hidden layer as a reader meets it: in Chromium, with the network off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunus.reports import render_scores, write_report
from tests.reports.made_latent import make_cut, make_latent
from tests.reports.made_scores import CONFIG, ROWS, Row, make_scores

WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
DRAWN = """[...document.querySelectorAll("#latent .plot")].filter(
    plot => plot.querySelector(".trace, .point, .hm image")).length"""
# Text of one figure that lies over other text of it.
CROWDED = """[...document.querySelectorAll("#latent .plot")].filter(plot => {
  const boxes = [...plot.querySelectorAll("text")].map(text => text.getBoundingClientRect());
  return boxes.some((a, i) => boxes.some((b, j) => i < j && a.width && b.width
    && a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 1 && b.top < a.bottom - 1));
}).map(plot => plot.id)"""
SQUARE = """[...document.querySelectorAll("[id^=covariance] .hm image")].map(image => {
  const box = image.getBoundingClientRect(); return Math.abs(box.width - box.height); })"""


@pytest.mark.parametrize(
    ("width", "scheme", "latent"),
    [
        (1280, "light", make_latent(width=32, idle=4)),
        (420, "dark", make_latent(width=300, block=4, idle=4)),
    ],
)
def test_the_section_is_drawn_quietly_without_crowding(
    browser: Any, tmp_path: Path, width: int, scheme: str, latent: Row
) -> None:
    path = tmp_path / "scores.html"
    path.write_text(render_scores({**make_scores(), "latent": latent}, ROWS, CONFIG))
    browser.open(path, width=width, scheme=scheme)
    assert browser.run(DRAWN) == browser.run("document.querySelectorAll('#latent .plot').length")
    assert browser.run(DRAWN) == 7
    assert browser.run(CROWDED) == []
    assert max(browser.run(SQUARE)) <= 2
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.run(WIDE) is False
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]  # heat maps
    assert asked == [path.resolve().as_uri()]
    with Image.open(browser.screenshot(path.with_suffix(".png"), whole=True)) as shot:
        colours = {colour for _, colour in shot.convert("RGB").getcolors(1 << 24) or []}
    light, dark = {(0x2B, 0x6C, 0x99), (0xFC, 0xFB, 0xF9)}, {(0x6F, 0xB4, 0xE2), (0x15, 0x17, 0x1B)}
    worn, other = (light, dark) if scheme == "light" else (dark, light)
    assert worn <= colours
    assert not other & colours


def test_a_run_with_cuts_and_push_is_drawn(
    browser: Any, journal: list[Row], make_run: Callable[[list[Row]], Path]
) -> None:
    for epoch in journal[2]["epochs"]:
        epoch |= {"push_loss": 0.5 / epoch["epoch"], "push_cov": 0.1}
    path = write_report(make_run([*journal, make_cut(1), make_cut(2)]))
    browser.open(path, width=420)
    assert browser.run(DRAWN) == 1
    assert browser.run("document.querySelectorAll('#training-push .trace').length") == 2
    assert browser.run("document.querySelectorAll('#latent tbody tr').length") == 2
    assert browser.run(WIDE) is False
    assert browser.complaints() == []
