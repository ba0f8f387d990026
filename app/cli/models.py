"""The commands that list what answers and who works: adapters, base models, workers."""

from typing import Annotated

import typer

from app.adapters.schemas import AdapterPage
from app.cli.amounts import age, size
from app.cli.arguments import adapter_names, completing
from app.cli.input import Url, connect
from app.cli.names import find_adapter
from app.cli.output import Column, Form, print_list
from app.cli.text import in_line
from app.system.schemas import ModelList, WorkerList

ADAPTER_COLUMNS = (
    Column("ADAPTER", lambda each: each.id, least=16, mark=""),
    Column("BASE", lambda each: each.base_model, least=10),
    Column("KIND", lambda each: each.kind),
    Column("RANK", lambda each: str(each.rank or "-")),
    Column("SIZE", lambda each: size(each.bytes)),
    Column("AGE", lambda each: age(each.created_at)),
    Column("VERSION", lambda each: each.version, is_wide=True),
    Column("JOB", lambda each: each.job_id, is_wide=True),
)
MODEL_COLUMNS = (
    Column("MODEL", lambda each: each.id),
    Column("SOURCE", lambda each: each.source),
)
WORKER_COLUMNS = (
    Column("WORKER", lambda each: each.name),
    Column("STAGE", lambda each: each.stage),
    Column("DEVICE", lambda each: in_line(each.device), least=8),
    Column("SEEN", lambda each: f"{age(each.last_seen)} ago"),
    Column("JOB", lambda each: each.job_id or "-", least=12, mark=""),
    Column("PROBLEM", lambda each: in_line(each.problem or "-"), least=8),
    Column("HOST", lambda each: each.host, is_wide=True),
    Column("GPUS", lambda each: str(each.gpus), is_wide=True),
    Column("VERSION", lambda each: each.version or "-", is_wide=True),
    Column("UP", lambda each: age(each.started_at), is_wide=True),
)


def adapters(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="how many")] = 50,
    delete: Annotated[
        str | None,
        typer.Option(help="remove this one instead, with its files", autocompletion=completing(adapter_names)),
    ] = None,
    output: Form = None,
    url: Url = None,
) -> None:
    """List the newest adapters, or remove one.

    \b
    Examples:
      tunesmith adapters -o wide
      tunesmith adapters --delete fib
    """
    with connect(url) as client:
        if delete is not None:
            found = client.get(f"/adapters/{find_adapter(client, delete)}")["id"]
            client.delete_adapter(found)
            typer.echo(f"{found} is deleted")
            return
        answer = client.get("/adapters", {"limit": limit})
    print_list(answer, output, AdapterPage, ADAPTER_COLUMNS)


def models(output: Form = None, url: Url = None) -> None:
    """List the base models in the models folder of the service. Any hub id can be trained as well."""
    with connect(url) as client:
        answer = client.get("/models")
    print_list(answer, output, ModelList, MODEL_COLUMNS)


def workers(output: Form = None, url: Url = None) -> None:
    """List the workers: what they do, and when they were last seen.

    \b
    Examples:
      tunesmith workers -o wide
    """
    with connect(url) as client:
        answer = client.get("/workers")
    print_list(answer, output, WorkerList, WORKER_COLUMNS)
