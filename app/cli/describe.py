"""`tunesmith describe`: a job for a person, from what was asked for to how it ended."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer

from app.artifacts.schemas import ArtifactList
from app.cli.amounts import age, figure, size, span
from app.cli.answers import read_answer
from app.cli.arguments import JobId
from app.cli.client import Client
from app.cli.input import Url, connect
from app.cli.jobs import state
from app.cli.names import find_job
from app.cli.output import DocumentForm, print_document
from app.cli.text import in_line
from app.jobs.schemas import AttemptView, CheckpointList, JobDetail

WIDTH = 12
Lines = Iterator[str]


def describe(job_id: JobId, output: DocumentForm = None, url: Url = None) -> None:
    """Show a job for a person: model, data, settings that were sent, progress, attempts, notices, results.

    \b
    Examples:
      tunesmith describe fib
      tunesmith describe job-mmnd -o yaml     # the same as tunesmith job -o yaml
    """
    with connect(url) as client:
        found = find_job(client, job_id)
        answer = client.get(f"/jobs/{found}")
        if print_document(answer, output):
            return
        lines = [*job_lines(read_answer(JobDetail, answer)), *_made_lines(client, found)]
    for line in lines:
        typer.echo(line)


def job_lines(job: JobDetail) -> Lines:
    """What the job itself says; every value on one line."""
    from app.cli.report import failure_lines, notice_lines, report_lines  # slow to import: it knows every report

    yield _field("job", job.id)
    yield _field("name", job.name)
    yield _field("status", state(job))
    yield _field("owner", f"{job.created_by or '-'}, project {job.project}, priority {job.priority}")
    if job.labels:
        yield _field("labels", ", ".join(map("=".join, job.labels.items())))
    yield _field("model", job.model or "-")
    yield from _time_lines(job)
    yield from _progress_lines(job)
    yield from _group("sent", _spec_lines(job.spec))
    yield from _group("data", report_lines(job.data_report or {}))
    yield from _group("attempts", map(_attempt_line, job.attempts))
    yield from _group("notices", notice_lines(job.notices, job.data_report or {}))
    yield from _group("error", failure_lines(job.error) if job.error is not None else ())
    yield from _group("result", _spec_lines(job.result or {}))


def _time_lines(job: JobDetail) -> Lines:
    yield _field("made", f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC, {age(job.created_at)} ago")
    if job.started_at is not None and job.finished_at is not None:
        yield _field("ran", span((job.finished_at - job.started_at).total_seconds()))
    elif job.started_at is not None:
        yield _field("running", f"since {job.started_at:%Y-%m-%d %H:%M:%S} UTC, for {age(job.started_at)}")
    if job.queue is not None:
        yield _field("queue", f"place {job.queue.position}: {job.queue.reason}")


def _progress_lines(job: JobDetail) -> Lines:
    progress = job.progress
    if progress is None:
        return
    yield _field("step", f"{progress.step} of {progress.total_steps}, epoch {progress.epoch:.2f}")
    yield _field("loss", f"{figure(progress.loss)}, learning rate {figure(progress.learning_rate, '.2e')}")
    yield _field("speed", f"{progress.tokens_per_second:,.0f} tokens/s, {progress.tokens:,} tokens so far")
    yield _field("memory", size(progress.memory_bytes))
    if job.status == "running":
        yield _field("left", span(progress.eta_seconds))


def _spec_lines(spec: Mapping[str, Any]) -> Lines:
    for name, value in flat(spec).items():
        if value is not None:
            yield f"{name}: {value}"


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted name: `{"lora": {"r": 16}}` has `lora.r`."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _attempt_line(attempt: AttemptView) -> str:
    ended = (attempt.ended_at - attempt.started_at).total_seconds() if attempt.ended_at is not None else None
    reason = f": {attempt.reason}" if attempt.reason else ""
    took = f"{attempt.outcome} after {span(ended)}" if ended is not None else f"works for {age(attempt.started_at)}"
    return f"{attempt.epoch}  {attempt.stage} on {attempt.worker}, {took}{reason}"


def _made_lines(client: Client, job_id: str) -> Lines:
    kept = read_answer(CheckpointList, client.get(f"/jobs/{job_id}/checkpoints")).data
    yield from _group("checkpoints", (f"step {each.step}, {size(each.bytes)}" for each in kept))
    made = read_answer(ArtifactList, client.get(f"/jobs/{job_id}/artifacts")).data
    yield from _group("artifacts", (f"{each.id}  {each.kind}, {size(each.bytes)}" for each in made))


def _field(name: str, value: str) -> str:
    return f"{name:<{WIDTH}}{in_line(value)}"


def _group(title: str, lines: Iterator[str] | Sequence[str] | tuple[()]) -> Lines:
    """A title above its lines; nothing without lines."""
    found = [in_line(line) for line in lines]
    if found:
        yield title
        yield from (f"  {line}" for line in found)
