"""Arguments that name what the service has. The shell completes them, unless the service does not answer at once."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app.cli.client import NEWEST, Client
from app.cli.errors import CommandError
from app.cli.input import connect
from app.cli.text import in_line

# How long a shell may wait for names.
COMPLETION_SECONDS = 1.0
Names = Iterator[tuple[str, str]]


def completing(names: Callable[[Client], Names]) -> Any:
    """A completion of typer: the names that begin as what was typed, each with a word about it."""

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        with suppress(CommandError, ValidationError), connect(ctx.params.get("url"), COMPLETION_SECONDS) as client:
            return [(name, in_line(about)) for name, about in names(client) if name.startswith(incomplete)]
        return []

    return complete


def job_names(client: Client) -> Names:
    for job in client.get("/jobs", NEWEST)["data"]:
        yield job["id"], f"{job['name']}, {job['status']}"


def file_names(client: Client) -> Names:
    for file in client.get("/files", NEWEST)["data"]:
        yield file["id"], file["filename"]


def adapter_names(client: Client) -> Names:
    for adapter in client.get("/adapters", NEWEST)["data"]:
        yield adapter["id"], adapter["base_model"]


def model_names(client: Client) -> Names:
    for model in client.get("/models")["data"]:
        yield model["id"], "base model"


def answering_names(client: Client) -> Names:
    yield from adapter_names(client)
    yield from model_names(client)


JobId = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="its id, the beginning of it, or its name", autocompletion=completing(job_names)
    ),
]
FileId = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="its id, the beginning of it, or its name", autocompletion=completing(file_names)
    ),
]
