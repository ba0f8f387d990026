"""Shows a job as it runs: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from app.client import Client, JobDetail, JobEvent, View

EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 2}
# Where there is no terminal, step lines come no closer than this.
QUIET_SECONDS = 5.0

Show = Callable[[JobEvent], None]


class Step(View):
    step: int
    total_steps: int
    loss: float | None
    learning_rate: float | None
    tokens_per_second: float
    seconds: float


def watch(client: Client, job_id: str, console: Console) -> JobDetail:
    """Show a job's events, past ones first, until it has ended. Returns it as it ended."""
    job = client.job(job_id)  # an unknown id or an absent service is said at once
    if job.queue is not None:
        console.print(f"waiting at place {job.queue.position}: {job.queue.reason}")
    with _bar(console) if console.is_terminal else _lines(console) as show:
        for event in client.follow(job_id):
            show(event)
    return client.job(job_id)


def outcome(job: JobDetail) -> str:
    """How a job ended, and what can be done now."""
    if job.status == "succeeded" and job.adapter_id:
        return f"job {job.id} succeeded; ask it: tunesmith generate --adapter {job.adapter_id} 'your prompt'"
    if job.error is None:
        return f"job {job.id} {job.status}"
    hint = f"\n{job.error.hint}" if job.error.hint else ""
    return f"job {job.id} {job.status}: {job.error.code} ({job.error.category}): {job.error.message}{hint}"


def describe(event: JobEvent) -> str | None:
    """One line about an event; None for those that are shown otherwise."""
    fields = event.fields
    match event.kind:
        case "status":
            return f"status: {fields['status']}"
        case "phase":
            return f"phase: {fields['phase']}"
        case "notice":
            return f"notice: {fields['message']}"
        case "eval":
            return f"eval at step {fields['step']}: loss {_number(fields['eval_loss'], '.4f')}"
        case "data":
            counts = {name: value for name, value in fields["report"].items() if isinstance(value, int | str)}
            return f"data: {', '.join(f'{name} {value}' for name, value in counts.items())}"
        case "adapter":
            return f"adapter: {fields['bytes'] / 1e6:.1f} MB, {fields['trainable_parameters']:,} trained parameters"
        case "finished":
            return f"trained {fields['steps']} steps in {timedelta(seconds=round(fields['train_seconds']))}"
    return None


def figures(step: Step) -> str:
    remaining = step.seconds / step.step * (step.total_steps - step.step) if step.step else None
    eta = timedelta(seconds=round(remaining)) if remaining is not None else "-"
    return (
        f"{step.step}/{step.total_steps}  loss {_number(step.loss, '.4f')}  lr {_number(step.learning_rate, '.2e')}  "
        f"{step.tokens_per_second:,.0f} tokens/s  ETA {eta}"
    )


@contextmanager
def _bar(console: Console) -> Iterator[Show]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("waiting", total=None, figures="")

        def show(event: JobEvent) -> None:
            if event.kind == "step":
                step = Step.model_validate(event.fields)
                progress.update(task, completed=step.step, total=step.total_steps, figures=figures(step))
            elif line := describe(event):
                progress.console.print(line)
            if event.kind in ("status", "phase"):
                progress.update(task, description=event.fields[event.kind])

        yield show


@contextmanager
def _lines(console: Console) -> Iterator[Show]:
    next_step_line = 0.0

    def show(event: JobEvent) -> None:
        nonlocal next_step_line
        if event.kind != "step":
            if line := describe(event):
                console.print(line)
            return
        step = Step.model_validate(event.fields)
        if step.step == step.total_steps or time.monotonic() >= next_step_line:
            next_step_line = time.monotonic() + QUIET_SECONDS
            console.print(f"step {figures(step)}")

    yield show


def _number(value: float | None, form: str) -> str:
    return format(value, form) if value is not None else "-"
