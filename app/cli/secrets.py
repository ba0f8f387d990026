"""`tunesmith secrets`: stores what jobs name as secret://NAME. A value is read from stdin, never from the arguments:
other users of the host can see those."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import in_project
from app.cli.errors import BadInput, CommandError
from app.cli.input import Url, connect
from app.cli.output import Column, Form, print_list
from app.config import Settings
from app.errors import ServiceError
from app.secrets.schemas import SecretList

Name = Annotated[str, typer.Argument(metavar="NAME", help="a spec names it as secret://NAME")]
Project = Annotated[str | None, typer.Option(help="whose jobs may name it; default: the project `default`")]
COLUMNS = (
    Column("SECRET", lambda secret: secret.name),
    Column("STORED", lambda secret: f"{secret.updated_at}"),
    Column("LAST USED", lambda secret: f"{secret.last_used_at or '-'}"),
)
app = typer.Typer(help="Store tokens that jobs name as secret://NAME.", no_args_is_help=True)


@app.command(name="set")
def store(name: Name, project: Project = None, url: Url = None) -> None:
    """Store a secret, or another value of one. The value is asked for, or read from stdin.

    \b
    Examples:
      tunesmith secrets set hf
      tunesmith secrets set hf < token.txt
    """
    value = typer.prompt(name, hide_input=True) if sys.stdin.isatty() else sys.stdin.read().rstrip("\r\n")
    if not value:
        raise BadInput("found nothing on stdin, expected the value of the secret")
    with connect(url) as client:
        client.put_secret(name, value, project)


@app.command(name="list")
def show(project: Project = None, output: Form = None, url: Url = None) -> None:
    """List the secrets of a project, without their values."""
    with connect(url) as client:
        answer = client.get("/secrets", in_project(project))
    print_list(answer, output, SecretList, COLUMNS)


@app.command()
def reencrypt(home: Annotated[Path | None, typer.Option(help="where all state is kept")] = None) -> None:
    """Encrypt all secrets with the newest key of TUNESMITH_SECRET_KEY, in the database itself, so that earlier keys can
    be taken away."""
    from app.reencryption import reencrypt as run  # the other commands need no database

    settings = Settings.model_validate({} if home is None else {"home": home})
    try:
        typer.echo(f"{run(settings)} secrets are encrypted with the newest key")
    except ServiceError as error:
        raise CommandError(error.message) from error


@app.command()
def delete(name: Name, project: Project = None, url: Url = None) -> None:
    """Remove a secret. A job that names it fails when it needs it."""
    with connect(url) as client:
        client.delete_secret(name, project)
