from pathlib import Path

import pytest

from prunus.core import (
    FileError,
    Record,
    RunFolderError,
    digest,
    read_rows,
    require_sealed,
    seals_of,
)


def test_the_last_seal_of_a_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    record = Record(tmp_path / "record.jsonl")
    for text in ("one", "two"):
        path.write_text(text)
        record.append("files", sha256={"plan.json": digest(path)})
    require_sealed(tmp_path, "plan.json", "not there")
    assert seals_of(record.rows) == {"plan.json": digest(path)}
    path.write_text("one")
    with pytest.raises(RunFolderError, match=r"plan\.json is not the file that this run wrote"):
        require_sealed(tmp_path, "plan.json")


def test_a_file_without_a_seal(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("one")
    require_sealed(tmp_path, "plan.json")
    with pytest.raises(RunFolderError, match=r"has no record\.jsonl: restore the journal"):
        require_sealed(tmp_path, "plan.json", needed=["plan.json"])
    Record(tmp_path / "record.jsonl").append("stop", reason="done")
    with pytest.raises(RunFolderError, match=r"record\.jsonl does not seal it"):
        require_sealed(tmp_path, "plan.json", needed=["plan.json"])


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "missing"):
        with pytest.raises(FileError, match="cannot be read"):
            digest(tmp_path / name)


def test_every_line_of_a_journal_has_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    for reason in ("one", "two", "three"):  # reopened each time, as after a kill
        Record(path).append("stop", reason=reason)
    lines = path.read_bytes().splitlines(keepends=True)
    assert [row["reason"] for row in read_rows(path)[0]] == ["one", "two", "three"]
    damaged = {
        "changed": [lines[0].replace(b"one", b"eno"), *lines[1:]],
        "lost": [lines[0], lines[2]],
        "moved": [lines[1], lines[0], lines[2]],
        "without": [lines[0], lines[1].split(b', "crc32"')[0] + b"}\n", lines[2]],
        "last without": [*lines[:2], lines[2].replace(b"crc32", b"crc33")],
    }
    for content in damaged.values():
        path.write_bytes(b"".join(content))
        with pytest.raises(RunFolderError, match=r"line \d, does not have its checksum"):
            read_rows(path)
        with pytest.raises(RunFolderError, match="checksum"):
            Record(path)
    for bit in range(8 * len(lines[1])):
        flipped = bytearray(lines[1])
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(lines[0] + flipped + lines[2])
        with pytest.raises(RunFolderError):
            read_rows(path)


def test_a_journal_of_an_earlier_version_has_no_checksums_and_goes_on_with_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "record.jsonl"
    path.write_text('{"event": "stop", "reason": "one"}\n')
    Record(path).append("stop", reason="two")
    assert len(read_rows(path)[0]) == 2
    path.write_text(path.read_text().replace("one", "eno"))
    with pytest.raises(RunFolderError, match="line 2, does not have its checksum"):
        read_rows(path)


@pytest.mark.parametrize(
    "line",
    ["[1]", '"stop"', '{"reason": "no event"}', '{"event": 3}', '{"event": NaN}', "[" * 9999],
)
def test_a_line_that_is_no_row(tmp_path: Path, line: str) -> None:
    path = tmp_path / "record.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(RunFolderError, match="line 1, is not"):
        read_rows(path)
