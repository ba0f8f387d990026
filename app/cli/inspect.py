"""The commands that show data before it is trained on: `validate` checks a job, `inspect` shows rows.

Trained text is green and the rest dim; without colour, trained text stands between [[ and ]].
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.cli.client import Client
from app.cli.errors import BadInput
from app.cli.input import SpecFile, Url, connect, console, read_spec, temporary_upload, with_file
from app.cli.names import find_job
from app.cli.output import DocumentForm, print_document
from app.cli.text import visible
from app.jobs.views.data_schemas import RowView, Validation

USUAL_PREVIEW, LONGEST_PREVIEW = 3, 20
INVALID = 1
Lines = Callable[[RowView], Iterable[str]]


def validate(
    spec: SpecFile,
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="a dataset to check with it")] = None,
    output: DocumentForm = None,
    url: Url = None,
) -> None:
    """Check a job and every row of its data without submitting it. Exit code 0: it is valid, 1: it is not.

    \b
    Examples:
      tunesmith validate job.json
      tunesmith validate job.json --file rows.jsonl
    """
    job_spec = read_spec(spec)
    with connect(url) as client:
        found = _validated(client, job_spec, file, preview=0)
    if not print_document(found.model_dump(mode="json"), output):
        _report(found)
    if not found.valid:
        raise typer.Exit(INVALID)


def inspect(
    target: Annotated[str, typer.Argument(help="a job, or a dataset file")],
    record: Annotated[
        int | None, typer.Option(min=1, help="number of the record; default: the first, of a file the first 3")
    ] = None,
    split: Annotated[Literal["train", "eval"] | None, typer.Option(help="of a job; default: where it is")] = None,
    model: Annotated[str | None, typer.Option(help="of a file: the model whose tokenizer reads it")] = None,
    template: Annotated[str | None, typer.Option(help="of a file: the name of a chat template")] = None,
    max_seq_length: Annotated[int | None, typer.Option(help="of a file: the longest row in tokens")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="print the token ids as well")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="put trained text between [[ and ]]")] = False,
    url: Url = None,
) -> None:
    """Show rows as they are trained on: the text that the trainer gets, and which parts of it are trained.

    \b
    Examples:
      tunesmith inspect rows.jsonl --model smollm2-135m-instruct
      tunesmith inspect fib --record 3 --tokens
    """
    has_colour = console.is_terminal and not console.no_color and not no_color
    lines = partial(row_lines, has_colour=has_colour, has_ids=tokens)
    chosen = {"model_name": model, "chat_template": template, "max_seq_length": max_seq_length}
    model_spec = {name: value for name, value in chosen.items() if value is not None}
    with connect(url) as client:
        if Path(target).is_file():
            if split is not None or model is None:
                raise BadInput(f"{target} is a file: it takes --model, and its rows are all of the train split")
            _inspect_file(client, Path(target), model_spec, record, lines)
        else:
            if model_spec:
                raise BadInput(f"there is no file {target}, and a job has its own model, template and length")
            _print(lines(client.row(find_job(client, target), record or 1, split)))


def _inspect_file(client: Client, path: Path, model: dict[str, Any], record: int | None, lines: Lines) -> None:
    if record is not None and record > LONGEST_PREVIEW:
        raise BadInput(f"of a file the first {LONGEST_PREVIEW} rows can be shown: submit a job to see all of them")
    preview = USUAL_PREVIEW if record is None else LONGEST_PREVIEW
    found = _validated(client, {"name": "inspect", "model": model}, path, preview=preview)
    rows = [row for row in found.preview if record in (None, row.record)]
    for row in rows:
        _print([*lines(row), ""])
    if record is not None and found.preview and not rows:
        typer.echo(f"record {record} is not among the first {len(found.preview)} rows", err=True)
    _report(found)
    if not found.valid:
        raise typer.Exit(INVALID)


def _validated(client: Client, spec: dict[str, Any], file: Path | None, *, preview: int) -> Validation:
    if file is None:
        return client.validate(spec, preview)
    with temporary_upload(client, file) as file_id:
        return client.validate(with_file(spec, file_id), preview)


def _report(found: Validation) -> None:
    """Print the result."""
    from app.cli.report import failure_lines, notice_lines, report_lines  # slow to import: it knows every report

    _print(report_lines(found.data_report or {}))
    _print(notice_lines(found.notices, found.data_report or {}))
    if found.error is not None:
        _print(failure_lines(found.error))
    typer.echo("valid" if found.valid else "not valid")


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def row_lines(row: RowView, *, has_colour: bool, has_ids: bool) -> Iterator[str]:
    """The row's counts, its text, how much was cut off, and with `has_ids` the token ids of every span."""
    trained = _piece(f"{row.supervised_tokens:,} trained", is_trained=True, has_colour=has_colour)
    rest = _piece(f"{row.tokens - row.supervised_tokens:,} not trained", is_trained=False, has_colour=has_colour)
    yield f"record {row.record} of {row.split}: {row.tokens:,} tokens, {trained}, {rest}, {row.cut_tokens:,} cut off"
    yield "".join(_piece(span.text, is_trained=span.trained, has_colour=has_colour) for span in row.spans)
    if row.cut_tokens:
        yield f"… {row.cut_tokens:,} more tokens were cut off here: the row is longer than max_seq_length"
    for span in row.spans if has_ids else []:
        ids = " ".join(map(str, span.token_ids))
        yield f"{'trained' if span.trained else 'not trained'}, {len(span.token_ids):,} tokens: {ids}"


def _piece(text: str, *, is_trained: bool, has_colour: bool) -> str:
    shown = visible(text)
    if not has_colour:
        return f"[[{shown}]]" if is_trained else shown
    return typer.style(shown, fg=typer.colors.GREEN, bold=True) if is_trained else typer.style(shown, dim=True)
