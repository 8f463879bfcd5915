"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from prunus.core import sweep_scratch, to_json, write_whole, writing_whole


def test_text_and_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "plan.json"
    write_whole(path, "½")
    assert path.read_bytes() == "½".encode()
    write_whole(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["plan.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_failure_leaves_the_old_file_and_no_scratch(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_whole(path, "old")

    def fail() -> None:
        with writing_whole(path) as scratch:
            assert scratch.parent == tmp_path
            scratch.write_text("half of the ne")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_replaces_the_scratch_file_works(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with writing_whole(path) as scratch:
        scratch.unlink()
        scratch.write_bytes(b"anew")
    assert path.read_bytes() == b"anew"


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    write_whole(tmp_path / "plan.json", "whole")
    with writing_whole(tmp_path / "other") as scratch:
        left = scratch.with_name("." + "x" + scratch.suffix)
        left.write_text("half")
        scratch.write_text("whole")
    sweep_scratch(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "plan.json"]


def test_json_is_byte_stable() -> None:
    assert to_json({"b": 1, "a": [1, 2]}) == to_json({"a": [1, 2], "b": 1})
    assert to_json({"a": 1}).endswith("}\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json(float("inf"))
