"""The commands that submit a job and follow it: submit, upload, watch, logs."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app.cli.arguments import JobId
from app.cli.client import Client
from app.cli.input import SpecFile, Url, connect, console, read_spec, upload_file, with_file
from app.cli.names import find_job
from app.cli.text import visible

INTERRUPTED = 130


def submit(
    spec: SpecFile,
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="a dataset to upload for it")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="show its progress until it ends")] = False,
    url: Url = None,
) -> None:
    """Submit a training job and print its id.

    \b
    Examples:
      tunesmith submit job.json --file rows.jsonl --watch
      tunesmith job fib | jq .spec | tunesmith submit -
    """
    job_spec = read_spec(spec)
    with connect(url) as client:
        if file is not None:
            job_spec = with_file(job_spec, upload_file(client, file))
        job = client.submit(job_spec)
        typer.echo(job.id)
        if watch:
            _watch(client, job.id)


def upload(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, JSON, CSV, Parquet or text")],
    url: Url = None,
) -> None:
    """Upload a dataset and print its id, for dataset.source.file of a job.

    \b
    Examples:
      FILE=$(tunesmith upload rows.jsonl)
    """
    with connect(url) as client:
        typer.echo(upload_file(client, file))


def watch(job_id: JobId, url: Url = None) -> None:
    """Show a job's progress until it ends. Ctrl-C ends only the display: the job continues.

    Exit code 0: it has succeeded, 1: it has failed, 2: it was cancelled.

    \b
    Examples:
      tunesmith watch fib
    """
    with connect(url) as client:
        _watch(client, find_job(client, job_id))


def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="wait for more until the job ends")] = False,
    url: Url = None,
) -> None:
    """Print what a job's process printed.

    \b
    Examples:
      tunesmith logs -f fib
    """
    with connect(url) as client:
        for piece in client.log(find_job(client, job_id), follow=follow):
            typer.echo(piece, nl=False)


def _watch(client: Client, job_id: str) -> NoReturn:
    from app.cli.watch import EXIT_CODES, outcome, show_progress  # slow to import: it knows every event

    try:
        job = show_progress(client, job_id, console)
    except KeyboardInterrupt:
        typer.echo(f"job {job_id} continues; to watch it again: tunesmith watch {job_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(visible(outcome(job)))
    raise typer.Exit(EXIT_CODES[job.status])
