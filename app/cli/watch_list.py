"""`tunesmith jobs --watch`: the list as it changes. A terminal has it drawn anew, a pipe gets the jobs that changed."""

import time
from collections.abc import Callable, Sequence

import typer
from rich.live import Live
from rich.text import Text

from app.cli.input import console
from app.cli.output import Column, FormName, table
from app.jobs.schemas import JobPage, JobView

PAUSE_SECONDS = 2.0


def watch_list(ask: Callable[[], JobPage], columns: Sequence[Column], form: FormName | None) -> None:
    """Show the answers until Ctrl-C, or until nobody reads the pipe."""
    show = _on_terminal if console.is_terminal else _in_pipe
    show(ask, lambda jobs: table(jobs, columns, form))


def _on_terminal(ask: Callable[[], JobPage], lines: Callable[[Sequence[JobView]], list[str]]) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            shown = lines(ask().data)[: console.height - 2]
            # The last line is empty, because the terminal writes ^C into it.
            live.update(Text("\n".join([*shown, ""]), no_wrap=True, overflow="crop"), refresh=True)
            time.sleep(PAUSE_SECONDS)


def _in_pipe(ask: Callable[[], JobPage], lines: Callable[[Sequence[JobView]], list[str]]) -> None:
    known: dict[str, tuple[object, ...]] = {}
    while True:
        found = ask().data
        changed = [job for job in found if known.get(job.id) != _state(job)]
        known = {job.id: _state(job) for job in found}
        for line in lines(changed) if changed else ():
            typer.echo(line)
        time.sleep(PAUSE_SECONDS)


def _state(job: JobView) -> tuple[object, ...]:
    """What counts as a change: the age of a job does not, and neither does each step."""
    return job.status, job.phase, job.cancel_requested, job.pause_requested, job.adapter_id
