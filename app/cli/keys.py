"""`tunesmith keys`: makes, lists and revokes keys in the database, so that the first key needs no open door."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.access.keys import USUAL_DAYS
from app.access.permissions import USUAL_PERMISSIONS, Permission
from app.cli.errors import BadInput
from app.cli.output import Column, Form, print_list
from app.config import Settings
from app.contracts.submitted import HIGHEST_PRIORITY, LOWEST_PRIORITY
from app.errors import ServiceError

if TYPE_CHECKING:
    from app.accounts.schemas import KeyView

USUAL_SCOPES = ",".join(USUAL_PERMISSIONS)
Home = Annotated[Path | None, typer.Option(help="where all state is kept")]
COLUMNS = (
    Column("ID", lambda key: key.id),
    Column("NAME", lambda key: key.name, least=8),
    Column("PROJECT", lambda key: key.project or "*", least=8),
    Column("SCOPES", lambda key: ",".join(key.scopes), least=8),
    Column("STATE", lambda key: _state(key)),
)
app = typer.Typer(help="Keys of callers. These commands work on the database, not through the service.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="who or what uses it")],
    project: Annotated[str | None, typer.Option(help="its only project; default: every one")] = None,
    scopes: Annotated[str, typer.Option(help=f"separated by commas, of {', '.join(Permission)}")] = USUAL_SCOPES,
    expires_in_days: Annotated[int, typer.Option(min=0, help="0: never")] = USUAL_DAYS,
    max_priority: Annotated[
        int | None, typer.Option(min=LOWEST_PRIORITY, max=HIGHEST_PRIORITY, help="of its jobs")
    ] = None,
    home: Home = None,
) -> None:
    """Make a key and print it. It is shown only now.

    \b
    Examples:
      tunesmith keys create jane --project team-a
      tunesmith keys create ops --scopes admin --expires-in-days 0
    """
    from app.accounts import commands  # the other commands of tunesmith need no database

    wanted = {
        "name": name,
        "project": project,
        "scopes": [scope.strip() for scope in scopes.split(",")],
        "expires_in_days": expires_in_days or None,
        "max_priority": max_priority,
    }
    with _rules_as_errors():
        made = commands.create(_settings(home), wanted)
    typer.echo(f"{made.id}: {', '.join(made.scopes)} in {made.project or 'every project'}", err=True)
    typer.echo(made.key)


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON array")] = False,
    output: Form = None,
    home: Home = None,
) -> None:
    """List the newest keys."""
    from app.accounts import commands  # as above
    from app.accounts.schemas import KeyPage

    keys, has_more = commands.newest(_settings(home))
    if as_json:
        typer.echo(json.dumps([key.model_dump(mode="json") for key in keys]))
        return
    print_list(KeyPage(data=list(keys), has_more=has_more).model_dump(mode="json"), output, KeyPage, COLUMNS)


@app.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(help="as `tunesmith keys list` shows it")], home: Home = None) -> None:
    """Revoke a key. Every process refuses it from its next request on."""
    from app.accounts import commands  # as above

    with _rules_as_errors():
        commands.revoke(_settings(home), key_id)
    typer.echo(f"{key_id} is revoked")


def _state(key: "KeyView") -> str:
    if key.revoked_at is not None:
        return "revoked"
    used = "never used" if key.last_used_at is None else f"used {key.last_used_at:%Y-%m-%d %H:%M}"
    return used if key.expires_at is None else f"{used}, expires {key.expires_at:%Y-%m-%d}"


def _settings(home: Path | None) -> Settings:
    return Settings.model_validate({} if home is None else {"home": home})


@contextmanager
def _rules_as_errors() -> Iterator[None]:
    """What the service's rules refuse is an error of the command."""
    try:
        yield
    except ServiceError as error:
        raise BadInput(error.message) from error
