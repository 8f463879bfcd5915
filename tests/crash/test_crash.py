"""A sample of the kills of each command; `make crash` tries all."""

import errno
from pathlib import Path

import pytest

from prunus.core import write_whole
from tests.crash.commands import SWEEPS
from tests.crash.sweep import Sweep, Swept, faults
from tests.crash.writes import watching

#: The commands that are tried at some of their writes, and at how many; the rest takes too long.
SAMPLES = {"prune": 1, "export": 1, "score": 2}


@pytest.mark.parametrize(("name", "count"), SAMPLES.items())
def test_a_kill_leaves_what_a_resume_completes(name: str, count: int, tmp_path: Path) -> None:
    swept = Swept(_named(name), tmp_path)
    kills = swept.kills[len(swept.kills) // 3 :: max(1, len(swept.kills) // (2 * count))][:count]
    assert len(kills) == count
    assert not list(faults(swept, kills))


def test_a_training_goes_on_after_a_kill_and_after_a_disk_that_cannot_be_written(
    tmp_path: Path,
) -> None:
    swept = Swept(_named("train"), tmp_path)
    kills = swept.kills[::6]
    assert not list(faults(swept, kills[:2], error=errno.ENOSPC))
    assert not list(faults(swept, kills[2:4], error=errno.EROFS))
    assert not list(faults(swept, kills[4:]))
    late = kills[len(kills) // 2]
    assert not list(faults(swept, [late], again=True))


def _named(name: str) -> Sweep:
    return next(sweep for sweep in SWEEPS if sweep.name == name)


def test_every_change_of_a_folder_is_seen(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with watching(out, tmp_path / "kills") as watch:
        write_whole(out / "file", "whole")
        (out / "file").rename(out / "moved")
        (out / "moved").unlink()
        out.rmdir()
    moments = watch.moments
    assert moments[0] == "before os.mkdir run"
    for seen in ("writing .", "middle of .", "os.rename moved", "os.remove moved", "os.rmdir run"):
        assert any(seen in moment for moment in moments), (seen, moments)
    scratch = next(kill for kill in watch.found if "middle" in kill.moment)
    (half,) = scratch.left.iterdir()
    assert half.read_text() == "wh"
    whole = next(kill for kill in watch.found if (kill.left / "file").exists())
    assert (whole.left / "file").read_text() == "whole"
