"""The commands that list jobs and change one."""

from datetime import timedelta
from typing import Annotated

import typer

from app.artifacts.schemas import ArtifactList
from app.cli.amounts import age, figure, size
from app.cli.answers import read_answer
from app.cli.arguments import JobId
from app.cli.client import requested_state
from app.cli.errors import BadInput
from app.cli.input import Url, connect
from app.cli.names import find_job
from app.cli.output import Column, Form, print_document, print_list, table
from app.cli.text import in_line
from app.jobs.schemas import CheckpointList, JobDetail, JobPage, JobView
from app.jobs.states import JobStatus


def state(job: JobView) -> str:
    """The status, with the phase of a running job, or with what was requested and has not happened yet."""
    more = requested_state(job) or job.phase
    return f"{job.status}/{more}" if more else job.status


def _done(job: JobView) -> str:
    progress = job.progress or job.checking
    return "-" if progress is None or progress.percent is None else f"{progress.percent:.0f}%"


def _left(job: JobView) -> str:
    seconds = job.progress.eta_seconds if job.progress is not None and job.status == "running" else None
    return "-" if seconds is None else str(timedelta(seconds=round(seconds)))


JOB_COLUMNS = (
    Column("JOB", lambda job: job.id, least=12, mark=""),
    Column("NAME", lambda job: in_line(job.name), least=8),
    Column("STATUS", state),
    Column("DONE", _done),
    Column("LOSS", lambda job: figure(job.progress.loss if job.progress else None, ".3f")),
    Column("AGE", lambda job: age(job.created_at)),
    Column("MODEL", lambda job: job.model or "-", least=8),
    Column("OWNER", lambda job: in_line(job.created_by or "-"), least=6),
    Column("PROJECT", lambda job: job.project, is_wide=True),
    Column("LEFT", _left, is_wide=True),
    Column("ADAPTER", lambda job: job.adapter_id or "-", is_wide=True),
    Column("LABELS", lambda job: in_line(",".join(map("=".join, job.labels.items()))) or "-", is_wide=True),
)


def jobs(
    label: Annotated[list[str] | None, typer.Option(help="name=value; given several times: jobs that have all")] = None,
    text: Annotated[str | None, typer.Option(help="a part of a name, an id or a value of a label")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="only jobs of this status")] = None,
    project: Annotated[str | None, typer.Option(help="only jobs of this project")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="how many")] = 50,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="show the list as it changes, until Ctrl-C")] = False,
    output: Form = None,
    url: Url = None,
) -> None:
    """List the newest jobs, or the newest that fit.

    \b
    Examples:
      tunesmith jobs -w
      tunesmith jobs --status running -o wide
      tunesmith jobs --label team=a -o name
    """
    sought = {"label": label, "text": text, "status": status, "project": project, "limit": limit}
    given = {name: value for name, value in sought.items() if value is not None}
    with connect(url) as client:
        if watch and output in ("json", "yaml"):
            raise BadInput(f"--watch prints rows: it takes no -o {output}")
        if watch:
            from app.cli.watch_list import watch_list  # the plain list does not need it

            watch_list(lambda: read_answer(JobPage, client.jobs(**given)), JOB_COLUMNS, output)
        print_list(client.jobs(**given), output, JobPage, JOB_COLUMNS)


def job(job_id: JobId, output: Form = None, url: Url = None) -> None:
    """Print everything that the service knows of a job, as JSON.

    \b
    Examples:
      tunesmith job fib -o yaml
      tunesmith job job-mmnd | jq .resolved_spec.training
    """
    with connect(url) as client:
        answer = client.get(f"/jobs/{find_job(client, job_id)}")
    if not print_document(answer, output or "json"):
        for line in table([read_answer(JobDetail, answer)], JOB_COLUMNS, output):
            typer.echo(line)


def cancel(job_id: JobId, url: Url = None) -> None:
    """Cancel a job. A running job stops within seconds.

    \b
    Examples:
      tunesmith cancel fib
      tunesmith jobs --label run=7 -o name | xargs -n 1 tunesmith cancel
    """
    with connect(url) as client:
        _print_status(client.request(find_job(client, job_id), "cancel"))


def pause(job_id: JobId, url: Url = None) -> None:
    """Pause a job. A running job writes a checkpoint at its next step and stops; `resume` continues it."""
    with connect(url) as client:
        _print_status(client.request(find_job(client, job_id), "pause"))


def resume(job_id: JobId, url: Url = None) -> None:
    """Continue a paused job from its newest checkpoint.

    \b
    Examples:
      tunesmith pause fib; tunesmith resume fib
    """
    with connect(url) as client:
        _print_status(client.request(find_job(client, job_id), "resume"))


def checkpoint(job_id: JobId, url: Url = None) -> None:
    """Request a checkpoint of a running job at its next step; the job continues."""
    with connect(url) as client:
        found = find_job(client, job_id)
        client.request_checkpoint(found)
    typer.echo(f"{found} writes a checkpoint at its next step; see: tunesmith checkpoints {found}")


def delete(job_id: JobId, url: Url = None) -> None:
    """Remove a job that has ended, with its events, logs and checkpoints; its adapter stays.

    \b
    Examples:
      tunesmith delete fib
      tunesmith jobs --status failed -o name | xargs -n 1 tunesmith delete
    """
    with connect(url) as client:
        found = find_job(client, job_id)
        client.delete(found)
    typer.echo(f"{found} is deleted")


CHECKPOINT_COLUMNS = (
    Column("STEP", lambda each: str(each.step)),
    Column("ATTEMPT", lambda each: str(each.attempt)),
    Column("SIZE", lambda each: size(each.bytes)),
    Column("TOOK", lambda each: f"{each.seconds:.1f} s"),
    Column("AGE", lambda each: age(each.created_at)),
    Column("BEST", lambda each: "best" if each.is_best else ""),
    Column("MADE", lambda each: f"{each.created_at}", is_wide=True),
    Column("SHA256", lambda each: each.sha256, is_wide=True),
)
ARTIFACT_COLUMNS = (
    Column("ARTIFACT", lambda each: each.id),
    Column("KIND", lambda each: each.kind),
    Column("NAME", lambda each: in_line(each.name), least=8),
    Column("SIZE", lambda each: size(each.bytes)),
    Column("AGE", lambda each: age(each.created_at)),
    Column("MADE", lambda each: f"{each.created_at}", is_wide=True),
)


def checkpoints(job_id: JobId, output: Form = None, url: Url = None) -> None:
    """List the checkpoints that a job keeps, newest first.

    \b
    Examples:
      tunesmith checkpoints fib
      tunesmith generate --adapter fib@step-40 "a question for one of them"
    """
    with connect(url) as client:
        answer = client.get(f"/jobs/{find_job(client, job_id)}/checkpoints")
    print_list(answer, output, CheckpointList, CHECKPOINT_COLUMNS)


def artifacts(job_id: JobId, output: Form = None, url: Url = None) -> None:
    """List what a job made for its user, oldest first."""
    with connect(url) as client:
        answer = client.get(f"/jobs/{find_job(client, job_id)}/artifacts")
    print_list(answer, output, ArtifactList, ARTIFACT_COLUMNS)


def _print_status(job: JobView) -> None:
    requested = requested_state(job)
    typer.echo(f"{job.status}, {requested}" if requested else job.status)
