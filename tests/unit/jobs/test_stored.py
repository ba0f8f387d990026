"""What is stored is read without what is not known here; what cannot be read is no error and says so."""

import json
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from app.contracts.checkpoints import Written
from app.contracts.events import ATTEMPT_EVENT
from app.contracts.probe import Probe
from app.contracts.spec import JobSpec
from app.contracts.stored import Unreadable, read, read_json
from app.database.columns import Choice, Document, read_document
from app.jobs.states import JobStatus, RequestedAction, Stage
from app.processes.log_rotation import LogOffsets
from tests.support.specs import a_body

SQLITE = sqlite.dialect()
MANIFEST = {"step": 3, "attempt": 1, "files": [{"path": "a", "bytes": 1, "sha256": "0", "mode": 420}], "host": "h"}
PROBE = {
    "dtype": "float32",
    "quantised": False,
    "prompts": [{"ids": [1], "steps": [{"top": [[1, -0.5]], "base": None}]}],
}


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (Written, MANIFEST),
        (Probe, {**PROBE, "device": "cpu"}),
        (JobSpec, {**a_body(model={"use_dora": True}), "kind": "train"}),
        (LogOffsets, {"first": 1, "rotated": 2, "third": 3}),
    ],
)
def test_a_document_of_a_newer_version_is_read_without_what_is_new(kind: Any, stored: dict[str, Any]) -> None:
    assert read(kind, stored) is not None
    assert read_json(kind, json.dumps(stored)) is not None


@pytest.mark.parametrize("text", ["", "[]", "null", '{"step": -1, "attempt": 1, "files": []}', '{"step": 3'])
def test_a_document_that_cannot_be_read_is_none(text: str) -> None:
    assert read_json(Written, text) is None


def test_an_event_of_a_newer_version_is_read_without_what_is_new() -> None:
    event = ATTEMPT_EVENT.validate_python({"kind": "resumed", "step": 3, "why": "x"}, extra="ignore")

    assert event.model_dump(include={"kind", "step"}) == {"kind": "resumed", "step": 3}


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', r'{"a": "\ud800"}', '{"a', "[" * 9999, "9" * 5000]
)
def test_text_that_no_answer_can_hold_is_no_document(text: str) -> None:
    assert read_document(text) == text
    assert isinstance(Document().process_result_value(read_document(text), SQLITE), Unreadable)


@pytest.mark.parametrize("value", [{}, {"a": [1.5, None, "é\U0001f600"]}, {"a": 1e300, "b": "1e999"}, [], 2**70])
def test_a_document_is_read_as_it_was_stored(value: Any) -> None:
    assert read_document(json.dumps(value)) == value


@pytest.mark.parametrize("shape", [dict, list])
def test_a_document_of_another_shape_is_loaded_empty_and_says_so(shape: type[Any]) -> None:
    other = {"a": 1} if shape is list else [1]
    for stored in (other, "text", 3, True, None):
        loaded = Document(shape).process_result_value(stored, SQLITE)
        assert loaded == shape()
        assert isinstance(loaded, Unreadable)
    assert Document(shape).process_result_value(shape(), SQLITE) == shape()
    assert Document(shape, is_optional=True).process_result_value(None, SQLITE) is None


def test_a_choice_of_another_version_is_unknown_or_its_own_text() -> None:
    assert Choice(JobStatus, JobStatus.UNKNOWN).process_result_value("archived", SQLITE) is JobStatus.UNKNOWN
    assert (
        Choice(RequestedAction, RequestedAction.UNKNOWN).process_result_value("pause", SQLITE) is RequestedAction.PAUSE
    )
    assert Choice(Stage).process_result_value("export", SQLITE) == "export"
    with pytest.raises(ValueError, match="export"):
        Choice(Stage).process_bind_param("export", SQLITE)
