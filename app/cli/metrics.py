"""`tunesmith metrics`: the curves of a training in the terminal, or as CSV."""

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from app.cli.answers import read_answer
from app.cli.arguments import JobId
from app.cli.curves import Point, curve
from app.cli.describe import flat
from app.cli.errors import BadInput
from app.cli.input import Url, connect, console
from app.cli.names import find_job
from app.cli.output import DocumentForm, print_document
from app.jobs.schemas import Metrics

USUAL = ("loss", "eval_loss")
LONGEST_LINE = 100
# The service keeps four points of each group of steps; a character of a curve is two dots across.
POINTS_A_CHARACTER = 8
STEP = "step"
NO_FIGURES = (STEP, "total_steps")
Series = dict[str, list[Point]]


def metrics(
    job_id: JobId,
    names: Annotated[list[str] | None, typer.Argument(metavar="[METRIC]...", help="default: loss, eval_loss")] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="one row a step, with all metrics or those that are named")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="draw every metric")] = False,
    output: DocumentForm = None,
    url: Url = None,
) -> None:
    """Draw the curves of a training, or print them as CSV, over all its attempts.

    \b
    Examples:
      tunesmith metrics fib
      tunesmith metrics fib learning_rate grad_norm
      tunesmith metrics fib --csv > fib.csv
    """
    width = min(console.width, LONGEST_LINE)
    is_drawn = not (as_csv or output)
    with connect(url) as client:
        thinned = {"points": POINTS_A_CHARACTER * width} if is_drawn else {}
        answer = client.get(f"/jobs/{find_job(client, job_id)}/metrics", thinned)
    if print_document(answer, output):
        return
    found = series_of(read_answer(Metrics, answer))
    chosen = _chosen(found, names or [], everything=every or as_csv)
    if as_csv:
        _print_csv(found, chosen)
        return
    for name in chosen:
        last = found[name][-1]
        typer.echo(f"{name}: {last[1]:.4g} at step {last[0]:g}")
        for line in curve(found[name], width):
            typer.echo(line)


def series_of(metrics: Metrics) -> Series:
    """The points of every number, by its name. Those of a method stand behind `metrics.`, of an evaluation `eval_`."""
    found: defaultdict[str, list[Point]] = defaultdict(list)
    for prefix, rows in (("", metrics.steps), ("eval_", metrics.evals)):
        for row in rows:
            for name, value in _numbers(row):
                found[name if name.startswith(prefix) else prefix + name].append((row[STEP], value))
    return dict(found)


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in flat(row).items():
        if name not in NO_FIGURES and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _chosen(found: Series, names: Sequence[str], *, everything: bool) -> list[str]:
    if not found:
        raise BadInput("there are no metrics yet: the training has not logged a step")
    unknown = [name for name in names if name not in found]
    if unknown:
        raise BadInput(f"there is no metric {unknown[0]!r}; there are {', '.join(found)}")
    return list(names) or [name for name in found if everything or name in USUAL]


def _print_csv(found: Series, chosen: Sequence[str]) -> None:
    rows: defaultdict[float, dict[str, float]] = defaultdict(dict)
    for name in chosen:
        for step, value in found[name]:
            rows[step][name] = value
    written = csv.DictWriter(sys.stdout, [STEP, *chosen], lineterminator="\n")
    written.writeheader()
    written.writerows({STEP: step, **rows[step]} for step in sorted(rows))
