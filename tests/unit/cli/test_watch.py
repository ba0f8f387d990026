"""What is shown of a job while it runs."""

import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from app.cli import watch
from app.cli.client import StreamedEvent
from app.cli.watch import Show, _bar, _lines, checked, describe, figures, outcome
from app.contracts.events import RowsChecked, StepLogged
from app.jobs.schemas import JobDetail
from tests.support import cli_answers


def an_event(kind: str, **fields: Any) -> StreamedEvent:
    return StreamedEvent(1, kind, fields)


def a_step(**changes: Any) -> dict[str, Any]:
    usual = {"loss": 0.5, "learning_rate": 2e-4, "tokens_per_second": 1234.5}
    return {**cli_answers.figures(3, 12), **usual, **changes}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (an_event("status", status="queued"), "status: queued"),
        (an_event("status", status="paused", error=None), "status: paused, until `tunesmith resume`"),
        (
            an_event("status", status="paused", error={"message": "no space\nleft"}),
            "status: paused (no space\\nleft), until `tunesmith resume`",
        ),
        (an_event("checkpoint", step=40, bytes=2_500_000, seconds=0.26), "checkpoint of step 40: 2.5 MB in 0.3 s"),
        (an_event("checkpoint_removed", step=20), None),
        (an_event("interrupted", step=40), "stopped after step 40"),
        (an_event("resumed", step=40), "resumed after step 40"),
        (an_event("deleted"), "the job was deleted"),
        (an_event("phase", phase="train"), "phase: train"),
        (an_event("notice", message="adamw_8bit needs a GPU"), "notice: adamw_8bit needs a GPU"),
        (an_event("eval", step=4, eval_loss=0.25), "eval at step 4: loss 0.2500"),
        (an_event("eval", step=4, eval_loss=None), "eval at step 4: loss -"),
        (an_event("data", report={"rows": 9, "dropped": 1, "lengths": [1, 2]}), "data: rows 9, dropped 1"),
        (
            an_event("data", report={"train": {"rows": 9000, "tokens": 1, "supervised_tokens": 1}, "x": {"y": []}}),
            "data: train 9,000 rows 1 tokens 1 trained",
        ),
        (an_event("adapter", bytes=2_500_000, trainable_parameters=4321), "adapter: 2.5 MB, 4,321 trained parameters"),
        (an_event("finished", steps=60, train_seconds=65.4), "trained 60 steps in 0:01:05"),
        (
            an_event(
                "started",
                is_warm=True,
                import_seconds=0.04,
                load_seconds=1,
                first_step_seconds=2.5,
                compile_seconds=None,
            ),
            "warm start: imports 0.0 s, load 1.0 s, first step 2.5 s, of which compiling - s",
        ),
        (an_event("resolved", values={}), None),
        (an_event("something newer"), None),
    ],
)
def test_an_event_is_one_line_or_none(event: StreamedEvent, line: str | None) -> None:
    assert describe(event) == line


def test_a_step_shows_how_far_how_well_and_how_long() -> None:
    line = figures(StepLogged.model_validate(a_step()))

    assert line == "3/12  loss 0.5000  lr 2.00e-04  1,234 tokens/s  ETA 0:00:18"


def test_figures_that_are_not_known_are_dashes() -> None:
    line = figures(StepLogged.model_validate(a_step(step=0, loss=None, learning_rate=None)))

    assert line == "0/12  loss -  lr -  1,234 tokens/s  ETA -"


def shown(view: Callable[[Console], AbstractContextManager[Show]], *events: StreamedEvent) -> str:
    """What a view of events writes to its terminal."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=view is _bar, width=160, markup=False, emoji=False, highlight=False)
    with view(console) as show:
        for event in events:
            show(event)
    return file.getvalue()


def test_a_terminal_gets_a_bar_with_the_newest_figures() -> None:
    steps = [an_event("step", **a_step(step=step)) for step in (11, 12)]

    text = shown(_bar, an_event("status", status="running"), *steps)

    assert "status: running" in text
    assert "12/12  loss 0.5000" in text


PHASES = [
    an_event("status", status="running", at=f"{cli_answers.NOW}"),
    an_event("phase", phase="load", at=f"{cli_answers.NOW}"),
    an_event("phase", phase="load", at=f"{cli_answers.NOW}"),
    an_event("phase", phase="save", at=f"{cli_answers.NOW + timedelta(seconds=65)}"),
]


def test_each_phase_is_said_once_and_how_long_it_took() -> None:
    assert shown(_lines, *PHASES).splitlines() == [
        "status: running",
        "phase: load",
        "load took 0:01:05",
        "phase: save",
    ]


def test_a_phase_that_reports_nothing_says_since_when_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENT_SECONDS", 0.0)

    text = shown(_lines, *PHASES, an_event("ping"))

    assert re.fullmatch(r"save since .*\d:\d\d:\d\d", text.splitlines()[-1])


def test_a_terminal_shows_the_time_of_a_phase_and_what_is_done_in_it() -> None:
    bar = shown(_bar, *PHASES).splitlines()[-2]

    assert re.search(r"save .*\d:\d\d:\d\d.*recording answers for the proof", bar)


def test_the_last_figures_stay_when_the_job_has_ended() -> None:
    text = shown(_bar, *PHASES, an_event("step", **a_step(step=12)), an_event("status", status="succeeded"))

    assert re.search("succeeded.*12/12  loss 0.5000", text.splitlines()[-2])


def rows(records: int, read: int = 0, total: int | None = None) -> StreamedEvent:
    return an_event("rows", source="source", records=records, bytes_read=read, total_bytes=total, seconds=0.0)


def test_a_terminal_gets_a_bar_for_the_check_too() -> None:
    assert "source: 9 records  100 %" in shown(
        _bar, an_event("status", status="validating"), rows(7, 1, 2), rows(9, 2, 2)
    )


def test_where_there_is_no_terminal_progress_is_a_line_now_and_then() -> None:
    assert shown(_lines, rows(7), rows(8), rows(9)) == "checking source: 7 records\n"


def test_nothing_that_a_job_says_reaches_the_terminal_as_a_command() -> None:
    assert shown(_lines, an_event("notice", message="\x1b[2J\x07 gone")) == "notice: \\x1b[2J\\x07 gone\n"


@pytest.mark.parametrize("text", ["[red]", ":smile:", "[/]"])
def test_what_a_job_says_is_shown_as_it_is(text: str) -> None:
    assert f"notice: {text}" in shown(_bar, an_event("notice", message=text))


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (400, "source: 1,200 records  25 %  600 records/s"),
        (None, "source: 1,200 records  600 records/s"),
        (0, "source: 1,200 records  600 records/s"),
    ],
)
def test_a_check_shows_how_far_and_how_fast(total: int | None, line: str) -> None:
    rows = RowsChecked(source="source", records=1200, bytes_read=100, total_bytes=total, seconds=2.0)

    assert checked(rows) == line


def test_a_trained_adapter_can_be_asked_at_once() -> None:
    job = JobDetail.model_validate(cli_answers.a_job(adapter_id="adapter-1"))

    assert outcome(job) == "job job-1 succeeded; ask it: tunesmith generate --adapter adapter-1 'your prompt'"


def test_a_cancelled_job_is_named() -> None:
    job = JobDetail.model_validate(cli_answers.a_job(status="cancelled"))

    assert outcome(job) == "job job-1 cancelled"
