"""`tunesmith wait`: waits until a job has a status, a phase or a step."""

import time
from collections.abc import Callable
from typing import Annotated

import typer

from app.cli.amounts import read_duration
from app.cli.arguments import JobId
from app.cli.input import Url, connect
from app.cli.names import find_job
from app.cli.text import visible
from app.contracts.events import Phase
from app.jobs.schemas import JobDetail
from app.jobs.states import JobStatus

POLL_SECONDS = 1.0
# The exit code of timeout(1).
TIMED_OUT = 124
ENDED = "ended"
STATUSES = tuple(status for status in JobStatus if status is not JobStatus.UNKNOWN)


def read_condition(text: str) -> Callable[[JobDetail], bool]:
    """Whether a job is as the condition says. Raises `typer.BadParameter` for what is no condition.

    A job that has succeeded has also been running: a short one may do both between two looks at it.
    """
    name, equals, value = text.partition("=")
    if not equals and name == ENDED:
        return lambda job: job.status.is_final
    if not equals and name in STATUSES:
        reached = {name, JobStatus.SUCCEEDED} if name == JobStatus.RUNNING else {name}
        return lambda job: job.status in reached
    if name == "phase" and value in set(Phase):
        return lambda job: job.phase == value
    if name == "step" and value.isdecimal():
        return lambda job: job.progress is not None and job.progress.step >= int(value)
    raise typer.BadParameter(
        f"found {text!r}, expected {ENDED}, a status ({', '.join(STATUSES)}), "
        f"phase=NAME ({', '.join(Phase)}) or step=NUMBER",
        param_hint="--for",
    )


def wait(
    job_id: JobId,
    condition: Annotated[
        str, typer.Option("--for", help="a status, `ended`, phase=NAME or step=NUMBER", metavar="CONDITION")
    ] = JobStatus.SUCCEEDED,
    timeout: Annotated[str | None, typer.Option(help="such as 90s, 10m or 2h; default: for ever")] = None,
    url: Url = None,
) -> None:
    """Wait until a job is as --for says. Exit code 0: it is, 1: it has ended otherwise, 124: --timeout is over.

    \b
    Examples:
      tunesmith wait fib                                   # until it has succeeded
      tunesmith wait fib --for=step=100 --timeout=30m
      tunesmith wait fib --for=ended && tunesmith metrics fib
    """
    is_met = read_condition(condition)
    deadline = None if timeout is None else time.monotonic() + read_duration(timeout)
    with connect(url) as client:
        found = find_job(client, job_id)
        while not is_met(job := client.job(found)):
            if job.status.is_final:
                reason = f": {job.error.message}" if job.error is not None else ""
                typer.echo(visible(f"{found} is {job.status} and will not be {condition}{reason}"), err=True)
                raise typer.Exit(1)
            if deadline is not None and time.monotonic() >= deadline:
                typer.echo(f"{found} is {job.status} and not yet {condition}: {timeout} are over", err=True)
                raise typer.Exit(TIMED_OUT)
            time.sleep(POLL_SECONDS)
    typer.echo(f"{found} is {condition}")
