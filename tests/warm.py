"""Processes that start warm: forked from a parent that has only imported what takes long.

A fresh interpreter imports for several seconds before `python -m prunus` does anything. Here one
parent for each pytest process imports once and forks a child for each command; the child is a
process of its own with its own id, exit status and files, runs `prunus/__main__.py` as
`python -m prunus` does, and can be killed. `fresh` starts a real interpreter.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
#: Takes long to import, and starts no thread. ONNX Runtime does, so each child imports it,
#: and with it `prunus.pipelines`.
IMPORTED = (
    *("torch", "torchvision", "sklearn.datasets", "torchmetrics", "lightning_fabric"),
    *("plotly.graph_objects", "onnxscript.function_libs.torch_lib.ops", "torch_pruning"),
    *("torch.onnx._internal.exporter._core", "torch._functorch.aot_autograd"),
    *("prunus.cli", "prunus.training", "prunus.surgery", "prunus.reports"),
)


class Process(Protocol):
    """What both kinds of process answer; `poll` gives None while it runs."""

    pid: int

    def poll(self) -> int | None: ...


class Command:
    """A running process with its output on disk, where no full pipe can stop it."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, *, fresh: bool) -> None:
        files = Path(tempfile.mkdtemp(dir=scratch().name))
        self._out, self._err = out, err = files / "out", files / "err"
        self._process: Process
        if fresh:
            with out.open("wb") as stdout, err.open("wb") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=folder,
                    env={**os.environ, **ENVIRONMENT},
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                )
        else:
            request = {"arguments": arguments, "folder": str(folder)}
            self._process = Forked(request | {"out": str(out), "err": str(err)})
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return its exit code, −n if signal n ended it, None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float = 300) -> int:
        """Return its exit code once it has ended."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"still running: {self.errors}"
            time.sleep(0.01)
        return code

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()


def start(*arguments: str, folder: Path = ROOT, fresh: bool = False) -> Command:
    """Start `python` with `arguments`, which are `-m prunus …` or `-c code …`, in `folder`."""
    return Command(arguments, folder, fresh=fresh)


def run(*arguments: str, folder: Path = ROOT) -> str:
    """Run `python` as `start` does; return what it printed. It must succeed."""
    command = start(*arguments, folder=folder)
    code = command.wait()
    assert code == 0, command.output + command.errors
    return command.output


class Forked:
    """A child of the warm parent."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.pid: int = ask(request)
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = ask({"poll": self.pid})
        return self._code


@cache
def parent() -> subprocess.Popen[str]:
    """Start the warm parent of this process; it ends when its input does."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.warm"],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(request: Mapping[str, Any]) -> Any:
    process = parent()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert answer, "the warm parent has died"
    return json.loads(answer)


@cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """Make the folder of all outputs."""
    return tempfile.TemporaryDirectory(prefix="commands")


def close() -> None:
    """End the warm parent and remove all outputs, if there are any."""
    if parent.cache_info().currsize:
        parent().communicate()
        parent.cache_clear()
    if scratch.cache_info().currsize:
        scratch().cleanup()
        scratch.cache_clear()


def serve() -> None:
    """Be the warm parent: a line of JSON in, one out, until the input ends."""
    for name in IMPORTED:
        __import__(name)
    threads = Path("/proc/self/task")  # not on every system
    if threads.exists() and len(list(threads.iterdir())) > 1:
        raise RuntimeError("an import has started a thread, which would be missing in every child")
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                break
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    else:
        os._exit(0)  # nothing to clean up, and freeing all modules takes a second
    become(request)


def become(request: Mapping[str, Any]) -> None:
    """Be the child: run what was asked for as the interpreter would, and end as it would."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, name in enumerate((os.devnull, request["out"], request["err"])):
        file = os.open(name, flags if number else os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    kind, what, *more = request["arguments"]
    sys.argv = [kind if kind == "-c" else what, *more]
    if kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        assert kind == "-m"
        runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
