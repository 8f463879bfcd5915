import io
from typing import Any

import pytest
from rich.console import Console

from prunus.reports import print_headline

Row = dict[str, Any]


def printed(rows: list[Row], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_headline(rows, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().replace("\u00a0", " ")


def test_it_fits_80_columns_without_cutting_a_cell(journal: list[Row]) -> None:
    text = printed(journal)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for cell in (
        "431 080",
        "42 913",
        "10.0 % kept, 10.0× smaller",
        "(12.1–13.9)",
        "2.3× faster",
        "(2.2–2.4)",
    ):
        assert cell in text


def test_large_networks_fit_too(journal: list[Row]) -> None:
    result = next(row for row in journal if row["event"] == "result")
    result["dense"] |= {"params": 138357544, "macs": 15470314496, "bytes": 553430176}
    result["pruned"] |= {"params": 38357544, "macs": 5470314496, "bytes": 153430176}
    text = printed(journal)
    assert max(map(len, text.splitlines())) <= 80
    assert "15 470 314 496" in text
    assert "35.4 % kept, 2.8× fewer" in text


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_before_anything_is_measured(journal: list[Row], stage: int) -> None:
    assert printed(journal[:stage]).startswith("Not measured yet: ")


def test_a_run_in_progress_says_what_is_missing(journal: list[Row]) -> None:
    text = printed(journal[:8])
    assert "Validation accuracy" in text
    assert "Not measured yet: the test set, the size on disk and the latency." in text


def test_a_runtime_that_failed_is_named(journal: list[Row]) -> None:
    journal.append({"event": "timing", "runtime": "compile", "skipped": "there is no compiler"})
    assert "torch.compile was not timed: there is no compiler" in printed(journal)
