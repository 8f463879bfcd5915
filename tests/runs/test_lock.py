import os
import threading
from pathlib import Path

import pytest

from prunus.core import FileError, RunFolderError
from prunus.runs import lock as room
from prunus.runs import locked


def in_a_child(folder: Path) -> int:
    """Lock a folder in another process; return 0 if that is permitted, 2 if it is refused."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with locked(folder):
                code = 0
        except RunFolderError:
            code = 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_another_process_is_refused_until_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with locked(out):
        assert in_a_child(out) == 2
        with locked(out / "derived"), locked(out):  # other folders, and the same one again
            assert in_a_child(out / "derived") == 2
        assert in_a_child(out / "derived") == 0
        assert in_a_child(out) == 2
    assert in_a_child(out) == 0
    with pytest.raises(ZeroDivisionError), locked(out):
        raise ZeroDivisionError
    assert in_a_child(out) == 0
    assert [path.name for path in out.iterdir()] == ["derived"]


def test_a_dead_process_keeps_nothing_and_neither_does_its_child(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            if os.fork() == 0:  # a loader's worker, say: it lives on
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            os.kill(os.getpid(), 9)
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    with locked(tmp_path):
        pass
    os.close(writing)


def test_another_thread_is_refused(tmp_path: Path) -> None:
    said: list[str] = []

    def write() -> None:
        try:
            with locked(tmp_path):
                said.append("written")
        except RunFolderError as error:
            said.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert said == [
        f"{tmp_path} is being written by another thread of this process: wait until it ends, or "
        "give another folder"
    ]


def test_where_there_are_no_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "fcntl", None)
    with pytest.warns(UserWarning, match="cannot be locked"), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(FileError, match="cannot be written"),
        locked(tmp_path / "file/run"),
    ):
        pass
