"""Answers of an older or a newer service are read; what cannot be read is one sentence that names the field."""

from typing import Any

import pytest

from app.adapters.schemas import AdapterPage
from app.cli.answers import parse, read_answer
from app.cli.errors import UnreadableAnswer
from app.jobs.schemas import CheckpointList, JobDetail, JobPage
from tests.support.cli_answers import NOW, Json, a_job, a_page_of_adapters


def without(name: str) -> Json:
    return {key: value for key, value in a_job().items() if key != name}


def test_a_field_of_a_newer_service_is_ignored() -> None:
    queue = {"position": 1, "reason": "r", "newer": 2}

    assert read_answer(JobDetail, a_job(queue=queue, newer=1)) == read_answer(JobDetail, a_job(queue=queue))


def test_a_field_that_an_older_service_does_not_have_is_its_default() -> None:
    assert read_answer(JobDetail, without("pause_requested")).pause_requested is False


def test_a_status_of_a_newer_service_is_unknown_and_final() -> None:
    page = {"data": [a_job(), a_job(status="archived")], "first_id": None, "last_id": None, "has_more": False}
    statuses = [job.status for job in read_answer(JobPage, page).data]

    assert statuses == ["succeeded", "unknown"]
    assert statuses[1].is_final


def test_a_kind_of_adapter_of_a_newer_service_is_unknown() -> None:
    page = a_page_of_adapters()
    page["data"][0]["kind"] = "prompt"

    assert read_answer(AdapterPage, page).data[0].kind == "unknown"


def test_a_field_is_read_by_its_name_where_the_service_stores_it_under_another() -> None:
    checkpoint = {"step": 4, "attempt": 2, "bytes": 1, "sha256": "0", "seconds": 0.5, "created_at": NOW}

    assert read_answer(CheckpointList, {"data": [checkpoint]}).data[0].attempt == 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (without("created_at"), "created_at is missing"),
        (a_job(priority="high"), "priority: found 'high', expected a valid integer"),
        (a_job(checking={"source": "third", "records": 1}), "checking.source: found 'third', expected 'source' or"),
        ([], "it: found a list of 0, expected a valid dictionary"),
    ],
)
def test_an_answer_that_cannot_be_read_is_one_sentence(answer: Any, problem: str) -> None:
    with pytest.raises(
        UnreadableAnswer, match=r"^the service answered in a form that tunesmith \S+ cannot read"
    ) as raised:
        read_answer(JobDetail, answer)

    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_object_that_lacks_a_field_names_it() -> None:
    with pytest.raises(UnreadableAnswer, match="phase is missing"):
        parse('{"fields": {}}')["fields"]["phase"]
