"""The `tunesmith` command. It starts the service, and talks to a running one through the REST API only.

Exit codes: 0 done, 1 an error or a failed job, 2 wrong usage or a cancelled job, 130 left with Ctrl-C.
"""

import json
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from app.cli import inspect as data_commands
from app.cli.client import ApiError, Client, ServiceAbsent
from app.cli.client_views import Job
from app.cli.errors import error_lines
from app.cli.input import BadInput, JobId, SpecFile, Url, connect, console, read_spec, upload_file, with_file
from app.cli.text import visible
from app.cli.watch import EXIT_CODES, outcome
from app.cli.watch import watch as watch_job
from app.config import Settings
from app.disk_faults import describe
from app.lock import CannotStart, Interrupted

INTERRUPTED = 130

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command; whatever goes wrong is one line on stderr and an exit code."""
    try:
        app(args=arguments)
    except (ApiError, ValidationError, BadInput, CannotStart, ServiceAbsent) as error:
        for line in error_lines(error):
            typer.echo(visible(line), err=True)
        sys.exit(INTERRUPTED if isinstance(error, Interrupted) else 1)
    except OSError as error:
        told = describe(error)
        if told is None:
            raise
        typer.echo(visible(told), err=True)
        sys.exit(1)
    sys.exit(0)


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="of the API; 0: any free one")] = None,
) -> None:
    """Start the whole service on this host. Ctrl-C stops all of it. TUNESMITH_ variables choose the rest."""
    from app.supervisor import up as run  # the other commands need no database

    chosen = {name: value for name, value in (("home", home), ("port", port)) if value is not None}
    run(Settings.model_validate(chosen), console.print)


@app.command()
def adopt(home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None) -> None:
    """Say that home and database belong together, after one of them was replaced: what the database does not know is
    swept from the home by the API, within an hour."""
    from app.installation import adopt as run  # the other commands need no database

    typer.echo(run(_settings(home)))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="a new folder, on another disk")],
    models: Annotated[bool, typer.Option("--models", help="also models/ and datasets/ of the home")] = False,
    home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None,
) -> None:
    """Copy database, files, adapters and jobs into a folder. The service may run meanwhile."""
    from app.backup.service import backup as run  # the other commands need no database

    run(_settings(home), folder, typer.echo, with_models=models)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="what `backup` made")],
    home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None,
) -> None:
    """Make an empty home and an empty database those of a backup, once all of it was found whole."""
    from app.backup.service import restore as run  # the other commands need no database

    run(_settings(home), folder, typer.echo)


@app.command()
def submit(
    spec: SpecFile,
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="a dataset to upload for it")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="show its progress until it ends")] = False,
    url: Url = None,
) -> None:
    """Submit a training job and print its id."""
    job_spec = read_spec(spec)
    with connect(url) as client:
        if file is not None:
            job_spec = with_file(job_spec, upload_file(client, file))
        job = client.submit(job_spec)
        typer.echo(job.id)
        if watch:
            _watch(client, job.id)


app.command()(data_commands.validate)
app.command()(data_commands.inspect)


@app.command()
def watch(job_id: JobId, url: Url = None) -> None:
    """Show a job's progress until it ends. Ctrl-C only looks away: the job goes on."""
    with connect(url) as client:
        _watch(client, job_id)


@app.command()
def jobs(url: Url = None) -> None:
    """List the newest jobs."""
    with connect(url) as client:
        found = client.jobs()
    _table([("JOB", "NAME", "STATUS", "DONE", ""), *map(_row, found.data)], has_more=found.has_more)


@app.command()
def job(job_id: JobId, url: Url = None) -> None:
    """Print all that is known of a job, as JSON."""
    with connect(url) as client:
        typer.echo(json.dumps(client.raw_job(job_id), indent=2))


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="wait for more until the job ends")] = False,
    url: Url = None,
) -> None:
    """Print what a job's process printed."""
    with connect(url) as client:
        _print_pieces(client.log(job_id, follow=follow))


@app.command()
def cancel(job_id: JobId, url: Url = None) -> None:
    """Ask a job to end. A running one stops within seconds."""
    with connect(url) as client:
        _say(client.cancel(job_id))


@app.command()
def pause(job_id: JobId, url: Url = None) -> None:
    """Stop a job behind a checkpoint. A running one stops at its next step; resume lets it go on."""
    with connect(url) as client:
        _say(client.pause(job_id))


@app.command()
def resume(job_id: JobId, url: Url = None) -> None:
    """Let a paused job go on behind its newest checkpoint."""
    with connect(url) as client:
        _say(client.resume(job_id))


@app.command()
def checkpoint(job_id: JobId, url: Url = None) -> None:
    """Ask a running job for a checkpoint at its next step; it goes on."""
    with connect(url) as client:
        client.ask_for_checkpoint(job_id)


@app.command()
def checkpoints(job_id: JobId, url: Url = None) -> None:
    """List the checkpoints that a job keeps, newest first."""
    with connect(url) as client:
        found = client.checkpoints(job_id)
    rows = [
        (str(each.step), str(each.attempt), f"{each.bytes / 1e6:.1f} MB", f"{each.seconds:.1f} s", f"{each.created_at}")
        for each in found.data
    ]
    _table([("STEP", "ATTEMPT", "SIZE", "TOOK", "MADE"), *rows], has_more=False)


@app.command()
def delete(job_id: JobId, url: Url = None) -> None:
    """Remove a job that has ended, with its events, logs and checkpoints; its adapter stays."""
    with connect(url) as client:
        client.delete(job_id)


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, JSON, CSV, Parquet or text")],
    url: Url = None,
) -> None:
    """Upload a dataset and print its id, for dataset.source.file of a job."""
    with connect(url) as client:
        typer.echo(upload_file(client, file))


@app.command()
def adapters(url: Url = None) -> None:
    """List the newest adapters."""
    with connect(url) as client:
        found = client.adapters()
    rows = [
        (each.id, each.base_model, each.kind, str(each.rank or "-"), f"{each.bytes / 1e6:.1f} MB")
        for each in found.data
    ]
    _table([("ADAPTER", "BASE", "KIND", "RANK", "SIZE"), *rows], has_more=found.has_more)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="what to ask; - reads it from stdin")],
    adapter: Annotated[
        str | None, typer.Option(help="a trained adapter, or a job: its adapter, or its newest checkpoint")
    ] = None,
    model: Annotated[str | None, typer.Option(help="a base model to ask instead")] = None,
    system: Annotated[str | None, typer.Option(help="a system message before the prompt")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: greedy")] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    min_p: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    max_new_tokens: Annotated[int | None, typer.Option()] = None,
    url: Url = None,
) -> None:
    """Ask an adapter or a base model; the answer is printed as it is made."""
    if (adapter is None) == (model is None):
        raise BadInput("one of --adapter and --model should say who is to answer")
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": sys.stdin.read() if prompt == "-" else prompt})
    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
    }
    order = {"adapter": adapter, "model": model, "messages": messages, **sampling}
    with connect(url) as client:
        checkpoint = _print_answer(client.generate({name: value for name, value in order.items() if value is not None}))
    if checkpoint is not None:
        typer.echo(f"answered by {checkpoint}, a checkpoint, which nobody has proved", err=True)


@app.command()
def demo(model: Annotated[str | None, typer.Option(help="a hub id, or a folder with a model")] = None) -> None:
    """Teach a model the Fibonacci numbers: ask it before, train it by a job, ask it after."""
    from app.cli.demo import run  # the other commands need none of it

    raise typer.Exit(run(model, console))


def _settings(home: Path | None) -> Settings:
    """For the commands that write to a home themselves: what they write is for this user alone."""
    from app.private_files import keep_private  # the other commands need no database

    settings = Settings.model_validate({} if home is None else {"home": home})
    open_home = keep_private(settings.root, settings.database)
    if open_home is not None:
        typer.echo(open_home, err=True)
    return settings


def _watch(client: Client, job_id: str) -> NoReturn:
    try:
        job = watch_job(client, job_id, console)
    except KeyboardInterrupt:
        typer.echo(f"job {job_id} goes on; look at it again with: tunesmith watch {job_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(visible(outcome(job)))
    raise typer.Exit(EXIT_CODES[job.status])


def _say(job: Job) -> None:
    """Where the job is, and what it is asked for as long as it has not done that."""
    typer.echo(f"{job.status}, {job.wish}" if job.wish else job.status)


def _print_answer(pieces: Generator[str, None, str | None]) -> str | None:
    """Print all pieces and end their line, also where Ctrl-C cuts the answer; what stands behind the last one."""
    has_begun = False
    try:
        while True:
            typer.echo(next(pieces), nl=False)
            has_begun = True
    except StopIteration as end:
        has_begun = True
        found: str | None = end.value
        return found
    finally:
        if has_begun:
            typer.echo()


def _print_pieces(pieces: Iterator[str]) -> None:
    for piece in pieces:
        typer.echo(piece, nl=False)


def _row(job: Job) -> tuple[str, ...]:
    progress = f"{job.progress.percent:.0f} %" if job.progress else "-"
    return job.id, job.name, job.status, progress, job.adapter_id or job.wish or job.phase or ""


def _table(rows: list[tuple[str, ...]], *, has_more: bool) -> None:
    """Columns for eyes and for `awk`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if has_more:
        typer.echo("there are older ones", err=True)
