"""What the commands that list or show print: aligned columns, or with `-o` JSON, YAML, more columns, or only names.

JSON and YAML are the answer of the service as it came, with the fields that only another version knows.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from rich.cells import cell_len, set_cell_size

from app.cli.answers import read_answer
from app.cli.input import console

FormName = Literal["json", "yaml", "wide", "name"]
Form = Annotated[
    FormName | None, typer.Option("--output", "-o", help="wide: more columns; name: the first column alone")
]
DocumentForm = Annotated[Literal["json", "yaml"] | None, typer.Option("--output", "-o")]
GAP = "  "


@dataclass(frozen=True)
class Column:
    """A column of entries. On a terminal that is too narrow its cells are cut to no less than `least` characters.

    A cell that is cut ends in `mark`. An id is cut without one, because the beginning of an id names its entry too.
    """

    title: str
    cell: Callable[[Any], str]
    is_wide: bool = False
    least: int | None = None
    mark: str = "…"


def print_list(answer: Any, form: FormName | None, page: type[BaseModel], columns: Sequence[Column]) -> None:
    """Print the entries of a list. `page` is the service's model of the answer, with a field `data`."""
    if print_document(answer, form):
        return
    found: Any = read_answer(page, answer)
    for line in table(found.data, columns, form):
        typer.echo(line)
    if getattr(found, "has_more", False) and form != "name":
        typer.echo("there are older ones", err=True)


def print_document(answer: Any, form: FormName | None) -> bool:
    """Print the answer as JSON or YAML. Returns False if another form is asked for."""
    if form == "json":
        typer.echo(json.dumps(answer, indent=2))
    elif form == "yaml":
        import yaml  # the other forms do not need it

        plain = json.loads(json.dumps(answer))
        typer.echo(yaml.safe_dump(plain, sort_keys=False), nl=False)
    return form in ("json", "yaml")


def table(entries: Sequence[Any], columns: Sequence[Column], form: FormName | None) -> list[str]:
    """Lines of aligned columns, which `awk` can split too. The form `name` has only the first column, and no title."""
    if form == "name":
        return [columns[0].cell(entry) for entry in entries]
    shown = [column for column in columns if form == "wide" or not column.is_wide]
    rows = [[column.title for column in shown], *([column.cell(entry) for column in shown] for entry in entries)]
    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    if console.is_terminal and form != "wide":
        widths = fitted(widths, shown, console.width)
    return [GAP.join(map(_sized, row, widths, shown)).rstrip() for row in rows]


def fitted(widths: Sequence[int], columns: Sequence[Column], room: int) -> list[int]:
    """Cut the widest columns first, until all fit into the room or none can be cut any more."""
    least = [width if column.least is None else column.least for width, column in zip(widths, columns, strict=True)]
    found, room = list(widths), room - len(GAP) * (len(columns) - 1)
    while sum(found) > room and (wide := [place for place, width in enumerate(found) if width > least[place]]):
        found[max(wide, key=found.__getitem__)] -= 1
    return found


def _sized(cell: str, width: int, column: Column) -> str:
    if cell_len(cell) <= width:
        return set_cell_size(cell, width)
    return set_cell_size(cell, width - cell_len(column.mark)) + column.mark
