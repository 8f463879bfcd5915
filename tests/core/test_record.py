"""The journal survives a kill at any byte."""

from pathlib import Path

import pytest

from prunus.core import Record


def test_rows_are_on_disk_in_order(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    record = Record(path)
    for at, accuracy in ((1, 0.5), (2, 0.7), (1, 0.9)):
        record.append("tune", iteration=at, accuracy=accuracy)
        record.append("cut", iteration=at)
    again = Record(path)
    assert again.rows == record.rows
    assert len(path.read_text().splitlines()) == 6
    assert [row["accuracy"] for row in again.all("tune")] == [0.5, 0.7, 0.9]
    last = again.find("tune", iteration=1)
    assert last is not None
    assert last["accuracy"] == 0.9
    assert again.find("tune", iteration=3) is None
    assert again.find("tune", iteration=1, accuracy=0.5) == record.rows[0]
    assert again.all("report") == []


def test_a_line_cut_short_is_dropped_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    record = Record(path)
    record.append("stop", reason="grün – ½\u2028")
    whole = path.read_bytes()
    record.append("stop", reason="2", iteration=2)
    both = path.read_bytes()
    for length in range(len(whole), len(both)):
        path.write_bytes(both[:length])
        again = Record(path)
        assert again.rows == record.rows[:1]
        again.append("stop", reason="3", iteration=3)
        assert [r.get("iteration") for r in Record(path).rows] == [None, 3]


def test_a_number_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.jsonl")
    with pytest.raises(ValueError, match="JSON compliant"):
        record.append("fit", loss=float("nan"))
    assert record.rows == []
    assert not (tmp_path / "record.jsonl").exists()


def test_without_a_path_rows_stay_in_memory() -> None:
    record = Record()
    record.append("fit", iteration=1)
    assert record.find("fit") == {"event": "fit", "iteration": 1}


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    path.write_text('{"event": "fit"\n{"event": "cut"}\n')
    with pytest.raises(ValueError, match=r"record\.jsonl|Expecting"):
        Record(path)
