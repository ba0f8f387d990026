"""Shows a job as it runs: a progress bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from app.cli.amounts import span
from app.cli.answers import PING, read_answer
from app.cli.client import Client, StreamedEvent, requested_state
from app.cli.phases import DOING, PhaseClock
from app.cli.text import in_line, visible
from app.contracts.events import RowsChecked, StepLogged
from app.jobs.schemas import JobDetail
from app.jobs.states import ENDED

EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 2, "unknown": 1}
# Without a terminal, lines of progress are printed no more often than this.
QUIET_SECONDS = 5.0
# A phase that says nothing is said to go on no more often than this.
SILENT_SECONDS = 30.0
BAR_WIDTH = 12
# A narrower terminal has no room for the learning rate.
ROOMY = 100

Json = dict[str, Any]
Show = Callable[[StreamedEvent], None]


def show_progress(client: Client, job_id: str, console: Console) -> JobDetail:
    """Show a job's events, past ones first, until it has ended. Returns the job as it ended."""
    job = client.job(job_id)  # raises at once for an unknown id or an absent service
    if job.queue is not None:
        console.print(f"waiting at place {job.queue.position}: {job.queue.reason}")
    if state := requested_state(job):
        console.print(state)
    with _bar(console) if console.is_terminal else _lines(console) as show:
        for event in client.follow(job_id):
            show(event)
    return client.job(job_id)


def outcome(job: JobDetail) -> str:
    """How a job ended, and what its user can do next."""
    if job.status == "succeeded" and job.adapter_id:
        return f"job {job.id} succeeded; ask it: tunesmith generate --adapter {job.adapter_id} 'your prompt'"
    if job.error is None:
        return f"job {job.id} {job.status}"
    hint = f"\n{job.error.hint}" if job.error.hint else ""
    return f"job {job.id} {job.status}: {job.error.code} ({job.error.category}): {job.error.message}{hint}"


def describe(event: StreamedEvent) -> str | None:
    """One line about an event; None for an event that has no line."""
    line = _LINES.get(event.kind)
    return line(event.fields) if line is not None else None


def _status(fields: Json) -> str:
    if fields["status"] != "paused":
        return f"status: {fields['status']}"
    reason = f" ({in_line(fields['error']['message'])})" if fields.get("error") else ""
    return f"status: paused{reason}, until `tunesmith resume`"


def _data(fields: Json) -> str:
    counts = [_counts(name, value) for name, value in fields["report"].items()]
    return f"data: {', '.join(filter(None, counts))}"


def _checkpoint(fields: Json) -> str:
    return f"checkpoint of step {fields['step']}: {fields['bytes'] / 1e6:.1f} MB in {fields['seconds']:.1f} s"


def _adapter(fields: Json) -> str:
    return f"adapter: {fields['bytes'] / 1e6:.1f} MB, {fields['trainable_parameters']:,} trained parameters"


_LINES: dict[str, Callable[[Json], str]] = {
    "status": _status,
    "phase": lambda fields: f"phase: {fields['phase']}",
    "request": lambda fields: f"requested: {fields['request']}",
    "notice": lambda fields: f"notice: {fields['message']}",
    "started": lambda fields: (
        f"{'warm' if fields['is_warm'] else 'cold'} start: imports {fields['import_seconds']:.1f} s, load "
        f"{fields['load_seconds']:.1f} s, first step {fields['first_step_seconds']:.1f} s, of which compiling "
        f"{_number(fields['compile_seconds'], '.1f')} s"
    ),
    "eval": lambda fields: (
        f"eval at step {fields['step']}: loss {_number(fields['eval_loss'], '.4f')}"
        f"{_of_method(fields.get('metrics', {}))}"
    ),
    "data": _data,
    "checkpoint": _checkpoint,
    "interrupted": lambda fields: f"stopped after step {fields['step']}",
    "resumed": lambda fields: f"resumed after step {fields['step']}",
    "adapter": _adapter,
    "artifact": lambda fields: f"{fields['artifact_kind']}: {fields['name']}, {fields['bytes'] / 1e6:.1f} MB",
    "finished": lambda fields: (
        f"trained {fields['steps']} steps in {timedelta(seconds=round(fields['train_seconds']))}"
    ),
    "deleted": lambda _: "the job was deleted",
}


def _counts(name: str, value: Any) -> str | None:
    """One number of a report, or those of the report of one dataset."""
    if isinstance(value, int | str):
        return f"{name} {value}"
    shown = _SHOWN if isinstance(value, dict) else ()
    parts = [f"{value[key]:,} {label}" for key, label in shown if isinstance(value.get(key), int)]
    return f"{name} {' '.join(parts)}" if parts else None


_SHOWN = (
    ("records", "records"),
    ("dropped", "dropped"),
    ("rows", "rows"),
    ("tokens", "tokens"),
    ("supervised_tokens", "trained"),
    ("trainable", "trained"),
    ("total", "in all"),
)


def checked(rows: RowsChecked) -> str:
    """How many rows of a dataset were checked so far, which part of it that is, and how fast."""
    part = f"  {100 * rows.bytes_read / rows.total_bytes:.0f} %" if rows.total_bytes else ""
    speed = f"  {rows.records / rows.seconds:,.0f} records/s" if rows.seconds > 0 else ""
    return f"{rows.source}: {rows.records:,} records{part}{speed}"


def figures(step: StepLogged, *, has_rate: bool = True) -> str:
    remaining = step.seconds / step.step * (step.total_steps - step.step) if step.step else None
    rate = f"lr {_number(step.learning_rate, '.2e')}  " if has_rate else ""
    return (
        f"{step.step}/{step.total_steps}  loss {_number(step.loss, '.4f')}  {rate}"
        f"{step.tokens_per_second:,.0f} tokens/s  ETA {span(remaining)}{_of_method(step.metrics)}"
    )


def _of_method(metrics: dict[str, float]) -> str:
    """The figures of the training method, each with its name."""
    return "".join(f"  {name} {value:.4g}" for name, value in metrics.items())


class _Elapsed(ProgressColumn):
    """The time of the phase, which goes on while no event comes."""

    def __init__(self, clock: PhaseClock) -> None:
        super().__init__()
        self._clock = clock

    def render(self, _: Task) -> Text:
        return Text(span(self._clock.seconds()))


class _Bar:
    """One line with the newest figures, and the other events above it."""

    def __init__(self, progress: Progress, clock: PhaseClock, console: Console) -> None:
        self._progress, self._clock, self._console = progress, clock, console
        self._task = progress.add_task(clock.name, total=None, figures="")
        self._last = ""

    def show(self, event: StreamedEvent) -> None:
        before = self._clock.name
        took = self._clock.enter(event)
        if event.kind == "step":
            step = read_answer(StepLogged, event.fields)
            self._last = figures(step, has_rate=self._console.width >= ROOMY)
            self._progress.update(self._task, completed=step.step, total=step.total_steps, figures=self._last)
        elif event.kind == "rows":
            rows = read_answer(RowsChecked, event.fields)
            self._progress.update(self._task, completed=rows.bytes_read, total=rows.total_bytes, figures=checked(rows))
        else:
            for line in _new_lines(event, took, is_repeated=before == self._clock.name):
                self._progress.console.print(visible(line))
        if before != self._clock.name:
            self._begin()

    def _begin(self) -> None:
        """Show the status or phase that has begun: a bar without an end until there are figures."""
        name = self._clock.name
        is_over = name in ENDED
        self._progress.tasks[0].total = 1 if is_over else None
        shown = self._last if is_over else DOING.get(name, "")
        self._progress.update(self._task, description=name, completed=int(is_over), figures=shown)


@contextmanager
def _bar(console: Console) -> Iterator[Show]:
    clock = PhaseClock()
    name, text = (TextColumn(template, markup=False) for template in ("{task.description}", "{task.fields[figures]}"))
    with Progress(name, BarColumn(BAR_WIDTH), _Elapsed(clock), text, console=console) as progress:
        yield _Bar(progress, clock, console).show


@contextmanager
def _lines(console: Console) -> Iterator[Show]:
    clock, next_line, next_sign = PhaseClock(), 0.0, time.monotonic() + SILENT_SECONDS

    def show(event: StreamedEvent) -> None:
        nonlocal next_line, next_sign
        now, before = time.monotonic(), clock.name
        took = clock.enter(event)
        if event.kind == PING:
            lines = [f"{clock.name} since {span(clock.seconds())}"] if now >= next_sign else []
        elif event.kind not in ("step", "rows"):
            lines = _new_lines(event, took, is_repeated=before == clock.name)
        elif _is_last_step(event) or now >= next_line:
            next_line, lines = now + QUIET_SECONDS, [_progress_line(event)]
        else:
            lines = []
        for line in lines:
            console.print(visible(line))
            next_sign = now + SILENT_SECONDS

    yield show


def _new_lines(event: StreamedEvent, took: str | None, *, is_repeated: bool) -> list[str]:
    """How long the phase before took, and the line of the event. A status or phase that goes on has none."""
    if event.kind in ("status", "phase") and is_repeated:
        return []
    return [line for line in (took, describe(event)) if line]


def _is_last_step(event: StreamedEvent) -> bool:
    return event.kind == "step" and event.fields["step"] == event.fields["total_steps"]


def _progress_line(event: StreamedEvent) -> str:
    if event.kind == "step":
        return f"step {figures(read_answer(StepLogged, event.fields))}"
    return f"checking {checked(read_answer(RowsChecked, event.fields))}"


def _number(value: float | None, form: str) -> str:
    return format(value, form) if value is not None else "-"
