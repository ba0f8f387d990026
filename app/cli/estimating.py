"""The command `estimate`: what a training would need and take, before it is submitted."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from app.cli.input import SpecFile, Url, connect, read_spec, temporary_upload, with_file
from app.cli.inspect import INVALID
from app.cli.output import DocumentForm, print_document
from app.cli.text import in_line
from app.jobs.views.estimate_schemas import Estimate, WorkerEstimate


def estimate(
    spec: SpecFile,
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="a dataset to count with it")] = None,
    output: DocumentForm = None,
    url: Url = None,
) -> None:
    """Predict memory, time and sizes of a training without submitting it. Exit code 1: the job is not valid.

    \b
    Examples:
      tunesmith estimate job.json --file rows.jsonl
    """
    from app.cli.report import failure_lines  # slow to import: it knows every report

    job_spec = read_spec(spec)
    with connect(url) as client:
        if file is None:
            found = client.estimate(job_spec)
        else:
            with temporary_upload(client, file) as file_id:
                found = client.estimate(with_file(job_spec, file_id))
    if not print_document(found.model_dump(mode="json"), output):
        failure = () if found.error is None else failure_lines(found.error)
        for line in (*estimate_lines(found), *failure):
            typer.echo(line)
    if not found.valid:
        raise typer.Exit(INVALID)


def estimate_lines(found: Estimate) -> Iterator[str]:
    tokens = found.tokens
    if tokens is not None:
        yield (
            f"{tokens.steps:,} steps of {tokens.mean_step:,.0f} tokens, {tokens.total:,} tokens in all; "
            f"{tokens.rows:,} rows of at most {tokens.longest_row:,} tokens"
        )
    if found.trained_parameters is not None:
        yield f"{found.trained_parameters:,} parameters are trained"
    if found.adapter_bytes is not None and found.checkpoint_bytes is not None:
        yield f"adapter {found.adapter_bytes / 1e6:,.1f} MB, each checkpoint {found.checkpoint_bytes / 1e6:,.1f} MB"
    if found.least_memory_bytes is not None and found.most_memory_bytes is not None:
        yield (
            f"memory from {found.least_memory_bytes / 2**30:,.1f} GiB with the smallest layout "
            f"to {found.most_memory_bytes / 2**30:,.1f} GiB with all activations kept"
        )
    for worker in found.workers:
        yield from _worker_lines(worker)
    if found.valid and not found.workers:
        yield "no training worker is known"


def _worker_lines(worker: WorkerEstimate) -> Iterator[str]:
    verdict = {True: "fits", False: "does not fit", None: "may fit"}[worker.fits]
    took = timedelta(seconds=round(worker.seconds)) if worker.seconds is not None else "an unknown time"
    yield in_line(f"{worker.worker} ({worker.device}): {verdict}; steps take {took}; {worker.reason}")
