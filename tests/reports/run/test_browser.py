"""The page as a reader meets it: opened from disk in Chromium, with the network off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunus.reports import write_report

Row = dict[str, Any]
MakeRun = Callable[[list[Row]], Path]
DRAWN = """[...document.querySelectorAll(".plot")].filter(
    plot => plot.querySelector(".trace, .point")).length"""
WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


def told(browser: Any) -> dict[str, str]:
    return dict(browser.run("({...document.documentElement.dataset})"))


def colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(1 << 24)
    return {colour for _, colour in found or []}


@pytest.mark.parametrize("width", [1280, 420])
def test_every_figure_is_drawn_quietly_and_offline(
    browser: Any, journal: list[Row], make_run: MakeRun, tmp_path: Path, width: int
) -> None:
    path = write_report(make_run(journal))
    browser.open(path, width=width)
    assert browser.run("innerWidth") == width
    assert browser.run(DRAWN) == browser.run("document.querySelectorAll('.plot').length") == 13
    said = told(browser)
    assert (said["errors"], said["drawn"], said["overflow"]) == ("0", "13", "no")
    assert browser.run(WIDE) is False
    assert browser.complaints() == []
    assert browser.requests() == [path.resolve().as_uri()]
    shot = colours(browser.screenshot(tmp_path / "page.png", whole=True))
    assert len(shot) > 200
    assert {(0x2B, 0x6C, 0x99), (0xD9, 0x82, 0x2B), (0xFC, 0xFB, 0xF9)} <= shot


def test_the_dark_page_wears_the_dark_twins(
    browser: Any, journal: list[Row], make_run: MakeRun, tmp_path: Path
) -> None:
    browser.open(write_report(make_run(journal)), scheme="dark")
    shot = colours(browser.screenshot(tmp_path / "page.png", whole=True))
    assert {(0x6F, 0xB4, 0xE2), (0xF0, 0xA3, 0x55), (0x15, 0x17, 0x1B)} <= shot
    assert not {(0x2B, 0x6C, 0x99), (0xD9, 0x82, 0x2B)} & shot
    assert browser.complaints() == []


@pytest.mark.parametrize(
    "fault",
    ["fetch('http://example.com/')", "null.x", "new Image().src = 'http://example.com/'"],
)
def test_the_alarms_ring(browser: Any, journal: list[Row], make_run: MakeRun, fault: str) -> None:
    path = write_report(make_run(journal[:1]))
    path.write_text(path.read_text().replace("</body>", f"<script>{fault}</script></body>"))
    browser.open(path)
    assert browser.run("new Promise(done => setTimeout(done, 100))") is None
    assert told(browser)["errors"] != "0"
    assert browser.complaints() != []


def test_open_tables_scroll_inside_the_phone(
    browser: Any, journal: list[Row], make_run: MakeRun
) -> None:
    browser.open(write_report(make_run(journal)), width=420)
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.run("document.querySelector('.wide').scrollWidth > 420") is True
    assert browser.run(WIDE) is False


def test_sixty_groups_open_a_batch_at_a_time(
    browser: Any, many_groups: list[Row], make_run: MakeRun
) -> None:
    browser.open(write_report(make_run(many_groups)), width=420)
    assert browser.run(DRAWN) == 32
    browser.run("document.querySelectorAll('#scores details')[0].open = true")
    wait = "new Promise(done => setTimeout(() => done(document.documentElement.dataset.drawn), 50))"
    for _ in range(100):
        if browser.run(wait) == "56":
            break
    assert browser.run(DRAWN) == 56
    assert browser.run(WIDE) is False
    browser.run("document.querySelectorAll('#layers details')[0].open = true")
    for _ in range(100):
        if browser.run(wait) == "57":
            break
    assert browser.run("document.querySelectorAll('#layers-out .point').length") == 120
    assert browser.run(WIDE) is False
    assert told(browser)["errors"] == "0"


@pytest.mark.parametrize("stage", [0, 5])
def test_a_run_in_progress_opens(
    browser: Any, journal: list[Row], make_run: MakeRun, stage: int
) -> None:
    browser.open(write_report(make_run(journal[:stage])), width=420)
    said = told(browser)
    assert (said["errors"], said["overflow"]) == ("0", "no")
    assert browser.run(DRAWN) == int(said["drawn"])
    assert browser.complaints() == []


def test_hostile_and_endless_names_stay_text_and_inside_the_phone(
    browser: Any, journal: list[Row], make_run: MakeRun
) -> None:
    hostile = "<img src=x onerror=alert(1)><b>&lt;"
    for row in journal:
        for group in row.get("groups", []):
            group["name"] = hostile + "very_long_name." * 12 + group["name"]
        for layer in row.get("layers", []):
            layer["module"] = hostile + "very_long_name." * 12 + layer["module"]
        for item in row.get("unprunable", []):
            item["module"] = hostile + "endless" * 40
    browser.open(write_report(make_run(journal)), width=420)
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert told(browser)["errors"] == "0"
    assert browser.run(WIDE) is False
    assert browser.requests() == [browser.run("location.href")]
