"""A sample of the kills of each command; `make crash` tries all."""

from pathlib import Path

import pytest

from prunus.core import write_whole
from tests.crash.commands import SWEEPS
from tests.crash.sweep import Swept, faults
from tests.crash.writes import watching

#: The commands that are tried at some of their writes, and at how many; the rest takes too long.
SAMPLES = {"train": 4, "prune": 3, "export": 2, "score": 2, "save": 4}


@pytest.mark.parametrize(("name", "count"), SAMPLES.items())
def test_a_kill_leaves_what_a_resume_completes(name: str, count: int, tmp_path: Path) -> None:
    swept = Swept(next(sweep for sweep in SWEEPS if sweep.name == name), tmp_path)
    kills = swept.kills[:: max(1, len(swept.kills) // count)][:count]
    assert len(kills) == count
    assert not list(faults(swept, kills))


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
