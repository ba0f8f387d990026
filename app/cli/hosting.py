"""The commands that work on a home of this host: the service itself, its backups, and the demo."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.input import console
from app.config import Settings

Home = Annotated[Path | None, typer.Option(help="where all state is kept")]


def up(
    home: Home = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="of the API; 0: any free one")] = None,
) -> None:
    """Start the whole service on this host. Ctrl-C stops it. TUNESMITH_ variables are its other settings.

    \b
    Examples:
      tunesmith up
      tunesmith up --home /srv/tunesmith --port 8080
    """
    from app.supervisor import up as run  # the other commands need no database

    chosen = {name: value for name, value in (("home", home), ("port", port)) if value is not None}
    run(Settings.model_validate(chosen), console.print)


def adopt(home: Home = None) -> None:
    """Declare that home and database belong together, after one of them was replaced. Jobs,
    adapters and files that the database does not know are moved to `.trash` by the API, within an hour."""
    from app.database.installation import adopt as run  # the other commands need no database

    typer.echo(run(_settings(home)))


def backup(
    folder: Annotated[Path, typer.Argument(help="a new folder, on another disk")],
    models: Annotated[bool, typer.Option("--models", help="also models/ and datasets/ of the home")] = False,
    home: Home = None,
) -> None:
    """Copy database, files, artifacts and jobs into a folder. The service may run meanwhile.

    \b
    Examples:
      tunesmith backup /mnt/backups/today
    """
    from app.backup.service import backup as run  # the other commands need no database

    run(_settings(home), folder, typer.echo, with_models=models)


def restore(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="a folder that `backup` wrote")],
    home: Home = None,
) -> None:
    """Restore a backup into an empty home and an empty database, once all its files have been verified."""
    from app.backup.service import restore as run  # the other commands need no database

    run(_settings(home), folder, typer.echo)


def demo(
    model: Annotated[str | None, typer.Option(help="a hub id, or a folder with a model")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave the service on until Ctrl-C")] = False,
) -> None:
    """Teach a model the Fibonacci numbers: test it, train it with a job, and test it again."""
    from app.cli.demo import run  # it imports the supervisor, which the other commands do not need

    raise typer.Exit(run(model, console, keep=keep))


def _settings(home: Path | None) -> Settings:
    """For the commands that write to a home themselves: what they write is for this user alone."""
    from app.processes.private_files import keep_private  # the other commands need no database

    settings = Settings.model_validate({} if home is None else {"home": home})
    open_home = keep_private(settings.root, settings.database)
    if open_home is not None:
        typer.echo(open_home, err=True)
    return settings
