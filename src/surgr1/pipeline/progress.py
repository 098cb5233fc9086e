"""One progress display for every long job: what runs, how far, at what rate, how long still."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int, int], None]
"""Called with (done, total)."""


class _Rate(TextColumn):
    """Items per second since the start of the task."""

    def __init__(self) -> None:
        super().__init__("{task.speed}")

    def render(self, task):  # type: ignore[no-untyped-def]  # rich's signature is Task -> Text
        from rich.text import Text

        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def progress_bar(console: Console, label: str) -> Iterator[Advance]:
    """A bar with count, rate and time left; on a plain log (no terminal) one line when the job ends."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
