"""Progress bars for loading and warm-up. Knows stages and counts; does not know what is being counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

ProgressReport = Callable[[str, int, int], None]
"""Called with (stage, units done, units in all); a new stage name starts a new bar."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A report that goes nowhere."""


@contextmanager
def progress_bars(console: Console | None = None) -> Iterator[ProgressReport]:
    """Draws one bar a stage on ``console`` (default: stderr) while the context is open."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=40),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report
