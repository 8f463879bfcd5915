"""The page and the terminal table of a search, from a made-up journal and in Chromium."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prunus.core.rows import networks
from prunus.pipelines.search.compare import compare
from prunus.reports import print_search, write_report
from prunus.reports.search.figures import accuracy_floor, size_figure
from prunus.reports.search.page import render_search
from prunus.reports.search.tables import arm_rows, standard_error, verdict

Row = dict[str, Any]
CONFIG = {"model": "net.py:Small<b>", "data": "digits", "rivals": ["l1"], "budget": "params=30%"}
RUN = {"event": "run", "command": "prunus search …", "prunus": "0.1.0", "torch": "2.15.0"}
RUN |= {"python": "3.11.7", "device": "CPU", "seed": 0, "started": "2026-11-22T00:00:00Z"}
STEP = {"step": 0, "stage": None, "model": "net.py:Small<b>@1,1", "params": 500, "macs": 9000}


def network(arm: str, name: str, params: int, accuracy: float, test: float | None = None) -> Row:
    row = {"arm": arm, "name": name, "params": params, "macs": 20 * params, "bytes": 4 * params}
    row |= {"validation_accuracy": accuracy, "test_accuracy": test, "epochs": 12}
    return row | {"folder": f"{arm}/000", "alone": arm == "fixed"}


def arm(key: str, *rows: Row) -> Row:
    return {"event": "arm", "key": key, "networks": list(rows), "seconds": 1.0}


START = {
    "event": "start",
    "model": "net.py:Small<b>@2,1",
    "validation_images": 600,
    "test_images": 800,
    "steps": [
        {**STEP, "accuracy": 0.9},
        {**STEP, "step": 1, "stage": 0, "params": 1000, "accuracy": 0.95},
    ],
}
PUSHED = arm("pushed", network("derived", "net.py:Small<b>@2,1", 1000, 0.99, 0.98))
CUT = arm(
    "derived",
    network("derived", "iteration 1", 600, 0.97),
    network("derived", "iteration 2", 300, 0.94),
    network("derived", "finished", 300, 0.96, 0.955),
)
OTHERS = (
    arm("grown 0", network("grown", "net.py:Small<b>@1,1", 500, 0.93, 0.92)),
    arm("plain", network("plain", "net.py:Small<b>@2,1", 1000, 0.985, 0.98)),
    arm("l1", network("l1", "iteration 1", 600, 0.4), network("l1", "finished", 300, 0.5, 0.49)),
    arm("fixed lenet300", network("fixed", "lenet300", 50000, 0.99, 0.99)),
)


@pytest.fixture
def rows() -> list[Row]:
    found = [RUN, START, PUSHED, CUT, *OTHERS]
    found.append({"event": "failed", "key": "bn_scale", "reason": "no <BatchNorm> is there"})
    arms = [row for currency in ("params", "macs") for row in compare(networks(found), currency)]
    return [*found, {"event": "comparison", "arms": arms}]


def plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def test_the_verdict_says_what_was_won_and_lost(rows: list[Row]) -> None:
    said = plain(verdict(rows))
    assert "Small<b>@2,1 has 1 000 parameters; pushed and pruned it has 300" in said
    assert "a test accuracy of 95.50 %, before pruning 98.00 %" in said
    assert "it is above networks of the growing steps and L1; on par with grown" in said
    assert said.endswith("grown network, no push, within a standard error.")
    assert standard_error(rows) == pytest.approx((0.96 * 0.04 / 600) ** 0.5)
    unknown = [{k: v for k, v in row.items() if k != "validation_images"} for row in rows]
    assert plain(verdict(unknown)).endswith("growing steps, grown network, no push and L1.")
    worse = [*rows[:-1], {"event": "comparison", "arms": [{**rows[-1]["arms"][0], "lead": -0.1}]}]
    assert "it is below networks of the growing steps." in plain(verdict(worse))
    assert plain(verdict([RUN])) == "The network has not finished growing."
    assert plain(verdict([RUN, START])).endswith("its derived network is not yet.")
    assert verdict([RUN, START, PUSHED, CUT]).endswith("Its rivals are not finished.")


def test_the_table_holds_the_networks_whose_test_was_read(rows: list[Row]) -> None:
    found = arm_rows(rows)
    finished = [row for row in networks(rows) if row["test_accuracy"] is not None]
    assert [plain(row.test) for row in found] == [
        f"{100 * row['test_accuracy']:.2f} %" for row in finished
    ]
    assert [row.folder for row in found] == [row["folder"] for row in finished]


def test_the_figure_draws_every_size_and_none_below_its_end(rows: list[Row]) -> None:
    found = networks(rows)
    figure = size_figure(found, "params", "parameters")
    drawn = {trace.name: trace for trace in figure.data}
    assert len(drawn) == len({row["arm"] for row in found})
    derived = drawn["derived: pushed, then pruned"]
    assert list(derived.x) == [1000, 600, 300]  # of one cost the last
    assert list(derived.y) == [99.0, 97.0, 96.0]
    floor = accuracy_floor(found)
    assert floor == pytest.approx(0.99 - 3 * (0.99 - 0.96))  # the median of nine is 0.96
    rival = drawn["L1"]
    assert list(rival.x) == [1000, 600, 300]  # its way begins at the network without push
    assert list(rival.y) == pytest.approx([98.5, 100 * floor, 100 * floor])
    assert "50.00" in rival.text[-1]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_the_page_is_drawn_quietly_and_offline(
    browser: Any, rows: list[Row], tmp_path: Path, width: int, scheme: str
) -> None:
    linked = tmp_path / "grown" / "000" / "report.html"
    linked.parent.mkdir(parents=True)
    linked.write_text("there")
    page = tmp_path / "report.html"
    page.write_text(render_search(rows, CONFIG, tmp_path))
    browser.open(page, width=width, scheme=scheme)
    said = browser.run("({...document.documentElement.dataset})")
    assert (said["errors"], said["drawn"], said["overflow"]) == ("0", "2", "no")
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.run("[...document.querySelectorAll('td a')].map(a => a.href)") == [
        linked.resolve().as_uri()
    ]
    text = plain(browser.run("document.body.innerText"))
    assert "no <BatchNorm> is there" in text
    assert "Small<b>@2,1" in text
    assert "600 validation images one standard error of an accuracy is 0.80 points" in text
    assert "not finished" not in text


def test_a_search_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: net\ndata: digits\nrivals: []\n")
    text = write_report(tmp_path).read_text()
    assert "not finished" in text
    assert "the run stopped before the grown network was trained" in text


def test_the_terminal_tells_the_same_in_80_columns(rows: list[Row]) -> None:
    console = Console(file=io.StringIO(), width=80)
    print_search(rows, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    text = plain(" ".join(lines))
    assert "deep LDA without push" not in text
    assert "L1 300 6 000 50.00 % 49.00 %" in text
    assert "bn_scale could not run: no <BatchNorm> is there" in text
    assert "over other networks: no network within the sizes of the derived ones" in text
