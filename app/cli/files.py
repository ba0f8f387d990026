"""`tunesmith files`: the datasets that were uploaded."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.amounts import age, size
from app.cli.answers import read_answer
from app.cli.arguments import FileId
from app.cli.errors import BadInput
from app.cli.input import Url, connect
from app.cli.names import find_file
from app.cli.output import Column, Form, print_document, print_list, table
from app.cli.text import in_line
from app.files.schemas import FilePage, FileView

STDOUT = Path("-")
COLUMNS = (
    Column("FILE", lambda file: file.id, least=13, mark=""),
    Column("NAME", lambda file: in_line(file.filename), least=8),
    Column("LAYOUT", lambda file: file.layout or "-"),
    Column("RECORDS", lambda file: f"{file.records:,}"),
    Column("USABLE", lambda file: "-" if file.usable_records is None else f"{file.usable_records:,}"),
    Column("SIZE", lambda file: size(file.bytes)),
    Column("AGE", lambda file: age(file.created_at)),
    Column("PROJECT", lambda file: file.project, is_wide=True),
    Column("FORMAT", lambda file: file.format, is_wide=True),
    Column("SHA256", lambda file: file.sha256, is_wide=True),
)
app = typer.Typer(help="List, show, download and delete the datasets that were uploaded.", no_args_is_help=True)


@app.command(name="list")
def show(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="how many")] = 50, output: Form = None, url: Url = None
) -> None:
    """List the newest uploads.

    \b
    Examples:
      tunesmith files list
      tunesmith files list -o name
    """
    with connect(url) as client:
        answer = client.get("/files", {"limit": limit})
    print_list(answer, output, FilePage, COLUMNS)


@app.command()
def get(file_id: FileId, output: Form = None, url: Url = None) -> None:
    """Show one upload as it is listed; with -o json or yaml all of it. `inspect` shows its rows."""
    with connect(url) as client:
        answer = client.get(f"/files/{find_file(client, file_id)}")
    if not print_document(answer, output):
        for line in table([read_answer(FileView, answer)], COLUMNS, output):
            typer.echo(line)


@app.command()
def download(
    file_id: FileId,
    to: Annotated[
        Path | None, typer.Option(help="a new file, or - for stdout; default: one with its name, in this folder")
    ] = None,
    url: Url = None,
) -> None:
    """Write the bytes of an upload into a file, exactly as they were sent.

    \b
    Examples:
      tunesmith files download rows.jsonl --to again.jsonl
      tunesmith files download file-mmnd --to - | head
    """
    with connect(url) as client:
        found = find_file(client, file_id)
        if to == STDOUT:
            with client.file_content(found) as chunks:
                sys.stdout.buffer.writelines(chunks)
            return
        # Only the last part of the name: it comes from whoever uploaded the file.
        target = to or Path(Path(read_answer(FileView, client.get(f"/files/{found}")).filename).name)
        if target.exists():
            raise BadInput(f"{target} is there already: choose another file with --to")
        partial = target.with_name(f"{target.name}.partial")
        try:
            with client.file_content(found) as chunks, partial.open("wb") as written:
                written.writelines(chunks)
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
    typer.echo(f"{found} is in {target.resolve()}")


@app.command()
def delete(file_id: FileId, url: Url = None) -> None:
    """Remove an upload that no unfinished job uses."""
    with connect(url) as client:
        found = find_file(client, file_id)
        client.delete_file(found)
    typer.echo(f"{found} is deleted")
