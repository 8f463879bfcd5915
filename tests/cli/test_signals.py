"""A run that is written is written by one process, and ends at a signal with how to go on."""

import os
import shlex
import signal
import time
from pathlib import Path

import pytest

from tests import warm
from tests.cli.command import prunus_

TRAIN = (
    *("train", "--model", "lenet300", "--data", "digits", "--input-shape", "1,8,8"),
    *("--epochs", "100000", "--device", "cpu"),
)


def started(out: Path) -> warm.Command:
    """Start a long training, and wait for its first epoch."""
    command = warm.start("-m", "prunus", *TRAIN, "--out", str(out))
    deadline = time.monotonic() + 120
    while not (out / "steps/train.pt").exists():
        assert command.poll() is None, command.errors
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return command


def stopped(command: warm.Command, by: signal.Signals) -> str:
    """End a command with a signal; return the one line that it prints last."""
    os.kill(command.pid, by)
    assert command.wait(60) == 128 + by, command.errors
    (line,) = command.errors.strip().splitlines()
    return line


def test_signals_and_a_second_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = started(out)
    for more in ((), ("--resume",)):
        assert prunus_(*TRAIN, "--out", out, *more) == 2
        said = capsys.readouterr().err
        assert f"{out} is being written by process {command.pid} (" in said
    arguments = shlex.join(("prunus", *TRAIN, "--out", str(out)))
    kept = "what was finished is kept: to go on, give:"
    line = stopped(command, signal.SIGINT)
    assert line == f"prunus: stopped by SIGINT; {kept} {arguments} --resume"
    for by in (signal.SIGTERM, signal.SIGHUP):
        other = tmp_path / by.name
        arguments = shlex.join(("prunus", *TRAIN, "--out", str(other)))
        line = stopped(started(other), by)
        assert line == f"prunus: stopped by {by.name}; {kept} {arguments} --resume"
    lacks = [name for name in ("config.yaml", "record.jsonl") if not (out / name).exists()]
    assert not lacks
    assert not list(out.glob("**/.*"))


CATCHES = """
import os, signal, sys, time
from prunus.cli import signals
signals.PATIENCE = 0.2
sys.argv = ["prunus", "score", "runs/a"]
with signals.stopping():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except BaseException:
        time.sleep(60)
"""


def test_a_library_that_catches_everything_does_not_keep_a_command_alive() -> None:
    command = warm.start("-c", CATCHES)
    assert command.wait(30) == 128 + signal.SIGTERM
    said = "prunus: stopped by SIGTERM: to run it again, give: prunus score runs/a\n"
    assert command.errors == said


def test_a_rank_of_torchrun_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert prunus_(*TRAIN, "--out", tmp_path / "run") == 2
    assert "found 2 ranks of torch.distributed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_system_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28), "somewhere")

    monkeypatch.setattr("prunus.pipelines.run_diff", full)
    assert prunus_("diff", tmp_path, tmp_path) == 2
    said = "somewhere cannot be read or written (No space left on device)"
    assert capsys.readouterr().err == f"prunus: {said}\n"
