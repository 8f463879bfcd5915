import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from prunus.core.errors import PrunusError
from prunus.reports import render_page, write_report

Row = dict[str, Any]
NASTY = '<img src=x onerror="alert(1)">&amp;</script>'


class Reader(HTMLParser):
    """Collects tags and the text a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        head, _, rest = page.partition("/**\n* plotly.js")
        self.feed(head + rest[rest.find("</script>") :])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


def test_the_page_holds_everything_once(journal: list[Row], config: Row) -> None:
    page = render_page(journal, config, {"version": 1}, folder="runs/a")
    reader = Reader(page)
    assert page.startswith("<!doctype html>")
    assert page.count("plotly.js v") == 1
    assert len(page) > 4e6
    assert 'prunus.load("runs/a")' in reader.text
    assert "Not measured yet" not in reader.text
    anchors = {attrs["href"] for tag, attrs in reader.tags if tag == "a"}
    ids = {"#" + str(attrs["id"]) for tag, attrs in reader.tags if tag == "section"}
    assert anchors == ids
    assert len(anchors) == 9


def test_nothing_is_loaded_from_anywhere(journal: list[Row], config: Row) -> None:
    reader = Reader(render_page(journal, config, None))
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attrs in reader.tags:
        assert "src" not in attrs
        assert (attrs.get("href") or "#").startswith("#")
    style = render_page(journal, config, None).split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import", style)


@pytest.mark.parametrize("stage", range(29))
def test_a_journal_cut_anywhere_renders(journal: list[Row], config: Row, stage: int) -> None:
    assert len(journal) == 28
    text = Reader(render_page(journal[:stage], config, None)).text
    for event, absent in {
        "run": "its first journal entry",
        "graph": "the network was traced",
        "fit": "the first training phase ended",
        "iteration": "the dense network was evaluated",
        "prune": "the first cut",
        "layers": "the layers were compared",
        "information": "the information of its layers was measured",
        "export": "the export",
    }.items():
        there = any(row["event"] == event for row in journal[:stage])
        assert (f"the run stopped before {absent}" in text) is not there
    unfinished = not any(row["event"] == "result" for row in journal[:stage])
    assert ("journal ends before" in text or "journal is empty" in text) is unfinished


def test_what_the_layers_know_stands_dense_beside_newest(journal: list[Row], config: Row) -> None:
    text = Reader(render_page(journal, config, None)).text.replace("\u00a0", " ")
    section = text.split("Class information of each layer")[1].split("Distribution of the scores")[
        0
    ]
    cells = section.split()
    assert cells.index("Dense") < cells.index("After")
    assert "50.0 % (48.0–52.0)" in " ".join(cells)
    single = [row for row in journal if row["event"] != "information" or not row["iteration"]]
    alone = Reader(render_page(single, config, None)).text
    assert "After iteration" not in alone
    assert "knowledge-0" in render_page(single, config, None)


def test_a_finished_run_without_it_says_so(journal: list[Row], config: Row) -> None:
    rows = [row for row in journal if row["event"] != "information"]
    text = Reader(render_page(rows, config, None)).text
    assert "Not measured in this run." in text
    assert "run stopped before" not in text


def test_names_cannot_break_out(journal: list[Row], config: Row) -> None:
    for row in journal:
        for group in row.get("groups", []):
            group["name"] = NASTY + group["name"]
        for layer in row.get("layers", []):
            layer["module"] = NASTY + layer["module"]
        for item in row.get("unprunable", []) + row.get("not_compensated", []):
            item |= {"module": NASTY, "reason": NASTY}
    journal[0] |= {"command": NASTY, "device": NASTY}
    config |= {"model": NASTY, "note": NASTY}
    page = render_page(journal, config, {"name": NASTY}, folder=NASTY, files={NASTY: 1})
    reader = Reader(page)
    assert "img" not in {tag for tag, _ in reader.tags}
    assert f"{NASTY} on digits" in reader.text
    clean = Reader(render_page(journal, {}, None))
    assert len(reader.scripts) == len(clean.scripts)
    for script in reader.scripts:
        if script.startswith('{"data"'):
            json.loads(script)


def test_sixty_groups_come_in_batches(many_groups: list[Row], config: Row) -> None:
    page = render_page(many_groups, config, None)
    assert page.count('class="panel"') == 60
    assert "Groups 25 to 48: layer5.0.conv1 … layer8.5.conv1" in page
    assert "Groups 49 to 60" in page
    assert len(page) < 5.5e6


def test_an_export_that_differs_is_not_praised(journal: list[Row], config: Row) -> None:
    export = next(row for row in journal if row["event"] == "export")
    export["largest_difference"] = 0.01
    assert "No. On 64 images" in Reader(render_page(journal, config, None)).text


def test_a_long_plan_is_cut(journal: list[Row], config: Row) -> None:
    page = render_page(journal, config, {"edits": list(range(10**5))})
    assert "the rest is in plan.json" in page


def test_write_report_is_repeatable_and_only_reads_the_journal(
    journal: list[Row], make_run: Callable[[list[Row]], Path]
) -> None:
    folder = make_run(journal)
    with (folder / "record.jsonl").open("a") as file:
        file.write('{"event": "half a li')
    before = (folder / "record.jsonl").read_bytes()
    path = write_report(folder)
    first = path.read_bytes()
    assert write_report(folder) == path == folder / "report.html"
    assert path.read_bytes() == first
    assert (folder / "record.jsonl").read_bytes() == before
    assert "all settings needed to repeat the run" in first.decode()


def test_a_run_without_journal_or_plan_still_has_a_page(
    make_run: Callable[[list[Row]], Path],
) -> None:
    folder = make_run([])
    (folder / "plan.json").unlink(missing_ok=True)
    (folder / "record.jsonl").unlink()
    assert "journal is empty" in write_report(folder).read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", None, "has no config.yaml"),
        ("config.yaml", "- a list", "expected a mapping"),
        ("config.yaml", "a: [", "is not YAML"),
        ("record.jsonl", "{]\n", "is not JSON"),
        ("plan.json", "{", "cannot be read"),
    ],
)
def test_a_broken_folder_is_named(
    journal: list[Row],
    make_run: Callable[[list[Row]], Path],
    name: str,
    content: str | None,
    message: str,
) -> None:
    folder = make_run(journal)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(PrunusError, match=message):
        write_report(folder)
