"""The `tunesmith` command. It starts the service, and talks to a running one through the REST API only.

Exit codes: 0 done, 1 an error or a failed job, 2 wrong usage or a cancelled job, 130 ended with Ctrl-C.
"""

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from app.cli import estimating, keys
from app.cli import inspect as data_commands
from app.cli.client import Client, requested_state
from app.cli.errors import BadInput, CommandError, error_lines
from app.cli.input import JobId, SpecFile, Url, connect, console, read_spec, upload_file, with_file
from app.cli.pull import pull as pull_command
from app.cli.secrets import app as secret_commands
from app.cli.text import in_line, print_table, visible
from app.config import Settings
from app.disk_faults import describe
from app.jobs.schemas import JobView
from app.processes.lock import CannotStart, Interrupted

INTERRUPTED = 130

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command. An error that the user can act on is a message on stderr and an exit code."""
    try:
        app(args=arguments)
    except (CommandError, ValidationError, CannotStart) as error:
        for line in error_lines(error):
            typer.echo(visible(line), err=True)
        sys.exit(INTERRUPTED if isinstance(error, Interrupted) else 1)
    except OSError as error:
        message = describe(error)
        if message is None:
            raise
        typer.echo(visible(message), err=True)
        sys.exit(1)
    sys.exit(0)


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="of the API; 0: any free one")] = None,
) -> None:
    """Start the whole service on this host. Ctrl-C stops it. TUNESMITH_ variables are its other settings."""
    from app.supervisor import up as run  # the other commands need no database

    chosen = {name: value for name, value in (("home", home), ("port", port)) if value is not None}
    run(Settings.model_validate(chosen), console.print)


@app.command()
def adopt(home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None) -> None:
    """Declare that home and database belong together, after one of them was replaced. Jobs,
    adapters and files that the database does not know are moved to `.trash` by the API, within an hour."""
    from app.database.installation import adopt as run  # the other commands need no database

    typer.echo(run(_settings(home)))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="a new folder, on another disk")],
    models: Annotated[bool, typer.Option("--models", help="also models/ and datasets/ of the home")] = False,
    home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None,
) -> None:
    """Copy database, files, artifacts and jobs into a folder. The service may run meanwhile."""
    from app.backup.service import backup as run  # the other commands need no database

    run(_settings(home), folder, typer.echo, with_models=models)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="a folder that `backup` wrote")],
    home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None,
) -> None:
    """Restore a backup into an empty home and an empty database, once all its files have been verified."""
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


app.add_typer(keys.app, name="keys")
app.command()(data_commands.validate)
app.command()(estimating.estimate)
app.command()(data_commands.inspect)


@app.command()
def watch(job_id: JobId, url: Url = None) -> None:
    """Show a job's progress until it ends. Ctrl-C ends only the display: the job continues."""
    with connect(url) as client:
        _watch(client, job_id)


@app.command()
def jobs(
    label: Annotated[list[str] | None, typer.Option(help="name=value; given several times: jobs that have all")] = None,
    text: Annotated[str | None, typer.Option(help="a part of a name, an id or a value of a label")] = None,
    url: Url = None,
) -> None:
    """List the newest jobs, or the newest that have a label or a text."""
    with connect(url) as client:
        page = client.jobs(label or [], text)
    print_table([("JOB", "NAME", "STATUS", "DONE", ""), *map(_row, page.data)], has_more=page.has_more)


@app.command()
def job(job_id: JobId, url: Url = None) -> None:
    """Print everything that the service knows of a job, as JSON."""
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
        for piece in client.log(job_id, follow=follow):
            typer.echo(piece, nl=False)


@app.command()
def cancel(job_id: JobId, url: Url = None) -> None:
    """Cancel a job. A running job stops within seconds."""
    with connect(url) as client:
        _print_status(client.request(job_id, "cancel"))


@app.command()
def pause(job_id: JobId, url: Url = None) -> None:
    """Pause a job. A running job writes a checkpoint at its next step and stops; `resume` continues it."""
    with connect(url) as client:
        _print_status(client.request(job_id, "pause"))


@app.command()
def resume(job_id: JobId, url: Url = None) -> None:
    """Continue a paused job from its newest checkpoint."""
    with connect(url) as client:
        _print_status(client.request(job_id, "resume"))


@app.command()
def checkpoint(job_id: JobId, url: Url = None) -> None:
    """Request a checkpoint of a running job at its next step; the job continues."""
    with connect(url) as client:
        client.request_checkpoint(job_id)


@app.command()
def checkpoints(job_id: JobId, url: Url = None) -> None:
    """List the checkpoints that a job keeps, newest first."""
    with connect(url) as client:
        kept = client.checkpoints(job_id)
    rows = [
        (str(each.step), str(each.attempt), f"{each.bytes / 1e6:.1f} MB", f"{each.seconds:.1f} s", f"{each.created_at}")
        for each in kept.data
    ]
    print_table([("STEP", "ATTEMPT", "SIZE", "TOOK", "MADE"), *rows], has_more=False)


@app.command()
def artifacts(job_id: JobId, url: Url = None) -> None:
    """List what a job made for its user, oldest first."""
    with connect(url) as client:
        made = client.artifacts(job_id)
    rows = [
        (each.id, each.kind, in_line(each.name), f"{each.bytes / 1e6:.1f} MB", f"{each.created_at}")
        for each in made.data
    ]
    print_table([("ARTIFACT", "KIND", "NAME", "SIZE", "MADE"), *rows], has_more=False)


app.command(name="pull")(pull_command)
app.add_typer(secret_commands, name="secrets")


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
        page = client.adapters()
    rows = [
        (each.id, each.base_model, each.kind, str(each.rank or "-"), f"{each.bytes / 1e6:.1f} MB") for each in page.data
    ]
    print_table([("ADAPTER", "BASE", "KIND", "RANK", "SIZE"), *rows], has_more=page.has_more)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="the prompt; - reads it from stdin")],
    adapter: Annotated[
        str | None, typer.Option(help="a trained adapter, or a job, which means its adapter or its newest checkpoint")
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
    """Ask an adapter or a base model. The answer is printed while it is generated."""
    if (adapter is None) == (model is None):
        raise BadInput("give exactly one of --adapter and --model")
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": sys.stdin.read() if prompt == "-" else prompt})
    options = {
        "adapter": adapter,
        "model": model,
        "temperature": temperature,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    with connect(url) as client:
        checkpoint = _print_answer(client.generate({**chosen, "messages": messages}))
    if checkpoint is not None:
        typer.echo(f"answered by {checkpoint}: a checkpoint, which was not verified", err=True)


@app.command()
def demo(model: Annotated[str | None, typer.Option(help="a hub id, or a folder with a model")] = None) -> None:
    """Teach a model the Fibonacci numbers: test it, train it with a job, and test it again."""
    from app.cli.demo import run  # it imports the supervisor, which the other commands do not need

    raise typer.Exit(run(model, console))


def _settings(home: Path | None) -> Settings:
    """For the commands that write to a home themselves: what they write is for this user alone."""
    from app.processes.private_files import keep_private  # the other commands need no database

    settings = Settings.model_validate({} if home is None else {"home": home})
    open_home = keep_private(settings.root, settings.database)
    if open_home is not None:
        typer.echo(open_home, err=True)
    return settings


def _watch(client: Client, job_id: str) -> NoReturn:
    from app.cli.watch import EXIT_CODES, outcome, show_progress  # slow to import: it knows every event

    try:
        job = show_progress(client, job_id, console)
    except KeyboardInterrupt:
        typer.echo(f"job {job_id} continues; to watch it again: tunesmith watch {job_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(visible(outcome(job)))
    raise typer.Exit(EXIT_CODES[job.status])


def _print_status(job: JobView) -> None:
    state = requested_state(job)
    typer.echo(f"{job.status}, {state}" if state else job.status)


def _print_answer(pieces: Generator[str, None, str | None]) -> str | None:
    """Print all pieces and end their line, also if Ctrl-C ends the answer. Returns what the generator returns."""
    has_begun = False
    try:
        while True:
            typer.echo(next(pieces), nl=False)
            has_begun = True
    except StopIteration as end:
        has_begun = True
        checkpoint: str | None = end.value
        return checkpoint
    finally:
        if has_begun:
            typer.echo()


def _row(job: JobView) -> tuple[str, ...]:
    progress = f"{job.progress.percent:.0f} %" if job.progress else "-"
    return job.id, job.name, job.status, progress, job.adapter_id or requested_state(job) or job.phase or ""
