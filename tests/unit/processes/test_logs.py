"""What a line of a log has, as text and as JSON."""

import json
import logging
import sys
from typing import Any

from app.processes.logs import TEXT, JsonLines, TextLines, about_attempt, request_id

JOB, OTHER = "job-" + "a" * 24, "job-" + "b" * 24


def a_record(message: str, *values: object, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord("worker.x", logging.WARNING, "f", 1, message, values, exc_info)


def as_json(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonLines().format(record)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def as_text(record: logging.LogRecord) -> str:
    return TextLines(TEXT).format(record)


def test_a_line_of_json_has_what_is_known() -> None:
    line = as_json(a_record("%s of\n%d", "one", 3))

    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "warning", "logger": "worker.x", "message": "one of\n3"}


def test_a_line_names_the_request_the_job_and_the_attempt_that_it_is_about() -> None:
    token = request_id.set("req-1")
    try:
        with about_attempt(JOB, 2):
            line = as_json(a_record("saved"))
    finally:
        request_id.reset(token)

    assert (line["request_id"], line["job_id"], line["attempt"]) == ("req-1", JOB, 2)
    assert "job_id" not in as_json(a_record("saved"))


def test_a_job_that_only_the_message_names_is_a_field_too() -> None:
    line = as_json(a_record("%s was taken back from w1", OTHER))

    assert (line["job_id"], "attempt" in line) == (OTHER, False)


def test_text_about_a_job_names_it_once() -> None:
    with about_attempt(JOB, 2):
        lines = [as_text(a_record("saved")), as_text(a_record("%s: saved", JOB))]

    assert [line.partition("worker.x ")[2] for line in lines] == [f"{JOB}: saved"] * 2


def test_an_exception_is_a_field_of_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        line = as_json(a_record("it failed", exc_info=sys.exc_info()))

    assert line["exception"].endswith("ValueError: broken")
