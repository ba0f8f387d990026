"""`tunesmith jobs --watch`: the list as it changes. A terminal has it drawn anew, a pipe gets the jobs that changed."""

import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import typer
from rich.live import Live
from rich.text import Text

from app.cli.input import console
from app.cli.output import Column, FormName, table
from app.jobs.schemas import JobPage, JobView

PAUSE_SECONDS = 2.0
Lines = Callable[[Sequence[JobView]], list[str]]


def watch_list(ask: Callable[[], JobPage], columns: Sequence[Column], form: FormName | None) -> NoReturn:
    """Show the answers until Ctrl-C, or until nobody reads the pipe."""
    if console.is_terminal:
        _on_terminal(ask, lambda jobs: table(jobs, columns, form))
    _in_pipe(ask, lambda jobs: table(jobs, columns, form), titles=0 if form == "name" else 1)


def _on_terminal(ask: Callable[[], JobPage], lines: Lines) -> NoReturn:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            shown = lines(ask().data)[: console.height - 2]
            # The last line is empty, because the terminal writes ^C into it.
            live.update(Text("\n".join([*shown, ""]), no_wrap=True, overflow="crop"), refresh=True)
            time.sleep(PAUSE_SECONDS)


def _in_pipe(ask: Callable[[], JobPage], lines: Lines, titles: int) -> NoReturn:
    """`titles`: how many lines of titles stand above the rows. They are printed once."""
    known: dict[str, tuple[object, ...]] = {}
    printed = 0
    while True:
        found = ask().data
        changed = [job for job in found if known.get(job.id) != _state(job)]
        known = {job.id: _state(job) for job in found}
        for line in lines(changed)[printed:]:
            typer.echo(line)
        printed = titles
        time.sleep(PAUSE_SECONDS)


def _state(job: JobView) -> tuple[object, ...]:
    """What counts as a change: the age of a job does not, and neither does each step."""
    return job.status, job.phase, job.cancel_requested, job.pause_requested, job.adapter_id
