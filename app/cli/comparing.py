"""`tunesmith compare`: jobs side by side: the settings in which they differ, and what came of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from app.cli.answers import read_answer
from app.cli.arguments import completing, job_names
from app.cli.client import Client
from app.cli.describe import flat
from app.cli.errors import BadInput
from app.cli.input import Url, connect
from app.cli.metrics import series_of
from app.cli.names import find_job
from app.cli.output import Column, DocumentForm, print_document, table
from app.cli.text import in_line
from app.jobs.schemas import JobDetail, Metrics

# These differ between any two jobs, and say nothing about the training.
NOT_COMPARED = ("name", "project", "priority")
SHORTEST = 8


def compare(
    jobs: Annotated[
        list[str],
        typer.Argument(metavar="JOB JOB...", help="ids, beginnings, or names", autocompletion=completing(job_names)),
    ],
    output: DocumentForm = None,
    url: Url = None,
) -> None:
    """Compare jobs: the settings in which they differ, their last values and their results.

    \b
    Examples:
      tunesmith compare fib fib-2
      tunesmith compare job-mmnd job-q7ab -o json | jq .settings
    """
    if len(jobs) < 2:
        raise BadInput("give at least two jobs to compare")
    with connect(url) as client:
        found = [client.job(find_job(client, each)) for each in jobs]
        results = side_by_side([_results(client, job) for job in found])
    specs = side_by_side([flat(job.resolved_spec or job.spec) for job in found])
    settings = {name: values for name, values in specs.items() if _differs(name, values)}
    answer = {"jobs": [job.id for job in found], "settings": settings, "results": results}
    if print_document(answer, output):
        return
    head = Column("JOB", lambda row: row[0], least=SHORTEST)
    columns = [head, *(_column(place, job.id) for place, job in enumerate(found))]
    for line in table([("name", [job.name for job in found]), *settings.items(), *results.items()], columns, None):
        typer.echo(line)


def side_by_side(several: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Each name that any of them has, with the value of each, None where it has none."""
    names = dict.fromkeys(name for each in several for name in each)
    return {name: [each.get(name) for each in several] for name in names}


def _differs(name: str, values: Sequence[Any]) -> bool:
    return name.partition(".")[0] not in NOT_COMPARED and any(value != values[0] for value in values)


def _results(client: Client, job: JobDetail) -> dict[str, Any]:
    """The status, the last value of each series, and the plain values of the result."""
    series = series_of(read_answer(Metrics, client.get(f"/jobs/{job.id}/metrics")))
    last = {name: points[-1][1] for name, points in series.items()}
    result = {name: value for name, value in (job.result or {}).items() if not isinstance(value, dict)}
    return {"status": job.status.value, **last, **result, "error": job.error.code if job.error else None}


def _column(place: int, job_id: str) -> Column:
    return Column(job_id, partial(_cell, place), least=SHORTEST)


def _cell(place: int, row: tuple[str, Sequence[Any]]) -> str:
    value = row[1][place]
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else in_line(str(value))
