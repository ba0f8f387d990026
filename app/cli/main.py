"""Fine-tune language models, and ask them. `tunesmith up` starts the service, most other commands talk to one.

They find it by TUNESMITH_URL, or by TUNESMITH_HOST and TUNESMITH_PORT, and send TUNESMITH_API_KEY.
A job, an adapter or a file is named by its id, by the beginning of its id, or by its name.

Exit codes: 0 done, 1 an error or a failed job, 2 wrong usage or a cancelled job, 124 waited too long, 130 Ctrl-C.
"""

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from app import __version__
from app.cli import (
    asking,
    comparing,
    estimating,
    files,
    following,
    hosting,
    inspect,
    jobs,
    keys,
    metrics,
    models,
    secrets,
    waiting,
)
from app.cli.describe import describe
from app.cli.errors import CommandError, error_lines
from app.cli.following import INTERRUPTED
from app.cli.pull import pull
from app.cli.text import visible
from app.disk_faults import describe as describe_fault
from app.processes.lock import CannotStart, Interrupted

# The commands in the order and the groups in which `--help` lists them.
GROUPS: dict[str, tuple[Callable[..., None] | tuple[str, typer.Typer], ...]] = {
    "Train": (inspect.validate, estimating.estimate, inspect.inspect, following.submit, following.upload),
    "Look at jobs": (jobs.jobs, describe, jobs.job, following.watch, waiting.wait, following.logs, metrics.metrics),
    "Results": (comparing.compare, jobs.checkpoints, jobs.artifacts, models.adapters, pull),
    "Control a job": (jobs.pause, jobs.resume, jobs.checkpoint, jobs.cancel, jobs.delete),
    "Ask": (models.models, asking.run, asking.generate),
    "Service": (hosting.up, hosting.demo, models.workers, hosting.backup, hosting.restore, hosting.adopt),
    "Stored beside jobs": (("files", files.app), ("secrets", secrets.app), ("keys", keys.app)),
}

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command. An error that the user can act on is a message on stderr and an exit code."""
    try:
        app(args=arguments, prog_name="tunesmith")
    except (CommandError, ValidationError, CannotStart) as error:
        for line in error_lines(error):
            typer.echo(visible(line), err=True)
        sys.exit(INTERRUPTED if isinstance(error, Interrupted) else 1)
    except OSError as error:
        message = describe_fault(error)
        if message is None:
            raise
        typer.echo(visible(message), err=True)
        sys.exit(1)
    sys.exit(0)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"tunesmith {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _register() -> None:
    for group, commands in GROUPS.items():
        for command in commands:
            if isinstance(command, tuple):
                name, inner = command
                app.add_typer(inner, name=name, rich_help_panel=group)
            else:
                app.command(rich_help_panel=group)(command)


_register()
