"""Candidates in parallel: worker processes that live as long as the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from prunus.core import PrunusError
from prunus.models import sized_name
from prunus.pipelines.grow.candidate import Bench, Candidate
from prunus.pipelines.grow.config import GrowRunConfig
from prunus.runs import open_job

__all__ = ["Crew"]

Row = dict[str, Any]


class Crew:
    """Tries candidates in up to `workers` processes of `threads` threads; if 1, in this process.

    Processes are spawned when first needed, open the data once, and end with the context or with
    this process, however it ends. As with all spawned processes, a calling script must start them
    under `if __name__ == "__main__":`.
    """

    def __init__(self, bench: Bench, *, workers: int, threads: int) -> None:
        self.bench, self.workers, self.threads = bench, workers, threads
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, Candidate]] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in (*self._idle, *(worker for worker, _ in self._busy.values())):
            worker.end()

    def try_all(self, candidates: Sequence[Candidate]) -> Iterator[Row]:
        """Yield the row of each candidate (`Bench.try_`) as soon as it is finished.

        Raises:
            PrunusError: a candidate failed or its process died; names the candidate.
        """
        if self.workers == 1:
            yield from map(self._here, candidates)
            return
        waiting = list(candidates)
        while waiting or self._busy:
            while waiting and len(self._busy) < self.workers:
                self._start(waiting.pop(0))
            for ready in wait(list(self._busy)):
                assert isinstance(ready, Connection)
                yield self._finish(ready)

    def _here(self, candidate: Candidate) -> Row:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self.bench.try_(candidate)
        finally:
            torch.set_num_threads(before)

    def _start(self, candidate: Candidate) -> None:
        bench = self.bench
        worker = self._idle.pop() if self._idle else _Worker(bench.config, bench.out, self.threads)
        worker.connection.send(candidate)
        self._busy[worker.connection] = worker, candidate

    def _finish(self, connection: Connection) -> Row:
        worker, candidate = self._busy[connection]
        try:
            answer = connection.recv()
        except (EOFError, ConnectionResetError) as error:
            spec = sized_name(self.bench.config.model, candidate.sizes)
            raise PrunusError(
                f"the process of candidate {spec} of step {candidate.step} died "
                f"{worker.last_words()}, and continue with --resume"
            ) from error
        del self._busy[connection]
        self._idle.append(worker)
        if isinstance(answer, PrunusError):
            raise answer
        row: Row = answer
        return row


class _Worker:
    """One process, and this end of the pipe to it."""

    def __init__(self, config: GrowRunConfig, out: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(other, config, out, threads), name="prunus grow"
        )
        self.process.start()
        other.close()  # so that this end notices when the process dies

    def end(self) -> None:
        """Terminate the process."""
        self.process.terminate()
        self.process.join()
        self.connection.close()

    def last_words(self) -> str:
        """Return how the process ended, and what to do."""
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            return f"(killed by {name}; it may have run out of memory): use fewer --workers"
        return f"(exit code {code}): fix the error printed above"


def _serve(connection: Connection, config: GrowRunConfig, out: Path, threads: int) -> None:
    """Try each candidate received; answer with its row or its error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    bench = Bench(open_job(config, "grow"), out)
    while True:
        try:
            candidate = connection.recv()
        except EOFError:
            return
        try:
            answer: Row | PrunusError = bench.try_(candidate)
        except PrunusError as error:
            answer = error
        connection.send(answer)


def _end_with_parent() -> None:
    """End this process with the parent process, so that a kill leaves none behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
