"""Progress bars on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prunus.batches import length
from prunus.runs import Watch

__all__ = ["TerminalWatch"]

T = TypeVar("T")


class TerminalWatch(Watch):
    """Progress bars during the work, one line when it is done."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False)

    def batches(self, title: str) -> Callable[[Iterable[T]], Iterable[T]]:
        """Show a bar over a loader's batches."""

        def track(loader: Iterable[T]) -> Iterator[T]:
            with self._bar() as bar:
                task = bar.add_task(title, total=length(loader), state="")
                for batch in loader:
                    yield batch
                    bar.advance(task)

        return track

    @contextlib.contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Show a bar over epochs with the latest validation accuracy, then its final state."""
        last: dict[str, Any] = {}
        with self._bar() as bar:
            task = bar.add_task(title, total=total, state="")

            def on_epoch(row: dict[str, Any]) -> None:
                last.update(row)
                bar.update(task, completed=row["epoch"], state=_state(row, short=True))

            yield on_epoch
        if last:
            self.say(f"{title}: {last['epoch']} epochs, {_state(last)}")

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,  # no bars in a log file
        )


def _state(row: dict[str, Any], *, short: bool = False) -> str:
    text = f"loss {row['loss']:.4f}"
    if "validation_accuracy" in row:
        text += f", {'val' if short else 'validation accuracy'} {row['validation_accuracy']:.2%}"
    return text
