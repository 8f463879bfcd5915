"""Candidates in parallel: worker processes that live as long as the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
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
        self._busy: dict[Future[Row], tuple[_Worker, Candidate]] = {}

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
            finished, _ = wait(self._busy, return_when=FIRST_COMPLETED)
            for future in [each for each in self._busy if each in finished]:
                yield self._finish(future)

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
        self._busy[worker.start(candidate)] = worker, candidate

    def _finish(self, future: Future[Row]) -> Row:
        worker, candidate = self._busy[future]
        try:
            row = future.result()
        except BrokenProcessPool as error:
            spec = sized_name(self.bench.config.model, candidate.sizes)
            raise PrunusError(
                f"the process of candidate {spec} of step {candidate.step} died "
                f"{worker.last_words()}, and continue with --resume"
            ) from error
        del self._busy[future]
        self._idle.append(worker)
        return row


class _Worker:
    """A pool of one process: where it breaks, it is known which candidate it was trying."""

    def __init__(self, config: GrowRunConfig, out: Path, threads: int) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_open,
            initargs=(config, out, threads),
        )
        self._processes: list[Any] = []

    def start(self, candidate: Candidate) -> Future[Row]:
        """Try a candidate in the process, which the first one spawns."""
        before = multiprocessing.active_children()
        future = self._pool.submit(_try, candidate)
        self._processes += [p for p in multiprocessing.active_children() if p not in before]
        return future

    def end(self) -> None:
        """Stop the process, whatever it is doing."""
        for process in self._processes:
            process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def last_words(self) -> str:
        """Return how the process ended, and what to do."""
        self._pool.shutdown()
        code = next((p.exitcode for p in self._processes if p.exitcode is not None), 0)
        if code < 0:
            name = signal.Signals(-code).name
            return f"(killed by {name}; it may have run out of memory): use fewer --workers"
        return f"(exit code {code}): fix the error printed above"


#: What a worker process tries candidates with, once it is open.
_BENCHES: list[Bench] = []


def _open(config: GrowRunConfig, out: Path, threads: int) -> None:
    """Open the job in a new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _BENCHES.append(Bench(open_job(config, "grow"), out))


def _try(candidate: Candidate) -> Row:
    """Try a candidate in this process; return its row."""
    (bench,) = _BENCHES
    return bench.try_(candidate)


def _end_with_parent() -> None:
    """End this process with the parent process, so that a kill leaves none behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
