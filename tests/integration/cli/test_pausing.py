"""The command for jobs that pause and go on, and for answers that are lost, incomplete or known already."""

import pytest

from app.cli import client as client_module
from app.cli.amounts import age
from app.cli.client import Client
from app.cli.errors import AnswerLost, ApiError
from tests.integration.cli.conftest import Command
from tests.support.cli_answers import NOW, Json
from tests.support.rest_service import RestService


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("command", "changes", "line"),
    [
        ("pause", {"status": "running", "pause_requested": True}, "running, pausing"),
        ("pause", {"status": "paused"}, "paused"),
        ("resume", {"status": "queued"}, "queued"),
        ("cancel", {"status": "running", "cancel_requested": True}, "running, cancelling"),
    ],
)
def test_a_command_says_where_the_job_is_and_what_it_is_asked_for(
    service: RestService, tunesmith: Command, command: str, changes: Json, line: str
) -> None:
    service.job.update(changes)

    assert tunesmith(command, "job-1") == (0, f"{line}\n", "")


def test_the_checkpoints_of_a_job_are_listed(service: RestService, tunesmith: Command) -> None:
    service.checkpoints = [
        {
            "step": step,
            "attempt": 2,
            "bytes": 2_500_000,
            "sha256": "0",
            "seconds": 0.25,
            "created_at": f"{NOW}",
        }
        for step in (40, 20)
    ]
    lines = tunesmith("checkpoints", "job-1")[1].splitlines()

    assert [line.split() for line in lines] == [
        ["STEP", "ATTEMPT", "SIZE", "TOOK", "AGE", "BEST"],
        ["40", "2", "2.5", "MB", "0.2", "s", age(NOW)],
        ["20", "2", "2.5", "MB", "0.2", "s", age(NOW)],
    ]


def test_a_job_that_pauses_is_listed_as_such(service: RestService, tunesmith: Command) -> None:
    service.job.update(status="running", adapter_id=None, phase="train", pause_requested=True)

    assert tunesmith("jobs")[1].splitlines()[1].split() == [
        "job-1",
        "fib",
        "running/pausing",
        "-",
        "-",
        age(NOW),
        "-",
        "-",
    ]


def test_watching_shows_that_a_job_pauses_and_goes_on(service: RestService, tunesmith: Command) -> None:
    saved = {"step": 40, "bytes": 2_500_000, "seconds": 0.25}
    service.job["pause_requested"] = True
    service.events = [
        {"kind": "status", "status": "running"},
        {"kind": "checkpoint", **saved},
        {"kind": "checkpoint_removed", "step": 20},
        {"kind": "interrupted", "step": 40},
        {"kind": "status", "status": "paused", "error": None},
        {"kind": "status", "status": "queued"},
        {"kind": "resumed", "step": 40},
    ]

    assert tunesmith("watch", "job-1")[1].splitlines()[:-1] == [
        "pausing",
        "status: running",
        "checkpoint of step 40: 2.5 MB in 0.2 s",
        "stopped after step 40",
        "status: paused, until `tunesmith resume`",
        "status: queued",
        "resumed after step 40",
        "status: succeeded",
    ]


def test_a_job_that_is_deleted_ends_its_watch(service: RestService, tunesmith: Command) -> None:
    service.job["status"] = "failed"
    service.events = [{"kind": "deleted"}]

    assert tunesmith("watch", "job-1")[1].splitlines()[0] == "the job was deleted"
    assert service.requests.count("GET /jobs/job-1/stream") == 1


@pytest.mark.parametrize("status", [None, 502, 503, 504])
def test_a_submit_whose_answer_was_lost_is_sent_again_under_its_key(service: RestService, status: int | None) -> None:
    service.lost, service.lost_status = 3, status
    with Client(service.url) as client:
        job = client.submit({"name": "fib"})

    assert job.id == "job-1"
    assert service.bodies == [{"name": "fib"}] * 4
    assert len(set(service.keys)) == 1
    assert len(service.keys[0] or "") >= 20


def test_two_submits_have_two_keys(service: RestService) -> None:
    with Client(service.url) as client:
        for _ in range(2):
            client.submit({})

    assert len(set(service.keys)) == 2


@pytest.mark.parametrize(("status", "error"), [(None, AnswerLost), (503, ApiError)])
def test_a_submit_that_is_never_answered_is_given_up(
    service: RestService, status: int | None, error: type[Exception]
) -> None:
    service.lost, service.lost_status = 99, status
    with Client(service.url) as client, pytest.raises(error):
        client.submit({})

    assert len(service.keys) == client_module.TRIES


@pytest.mark.parametrize("status", [400, 409, 422, 500])
def test_a_submit_that_was_refused_is_not_sent_again(service: RestService, status: int) -> None:
    service.lost, service.lost_status = 1, status
    with Client(service.url) as client, pytest.raises(ApiError):
        client.submit({})

    assert len(service.keys) == 1


def test_a_log_that_has_not_grown_is_not_sent_again(service: RestService) -> None:
    service.job["status"] = "running"
    with Client(service.url) as client:
        pieces = client.log("job-1", follow=True)
        assert [next(pieces) for _ in range(3)] == ["", "", ""]

        service.log = "more"
        assert next(pieces) == "more"

    assert service.statuses == [200, 304, 304, 304, 200]


def test_an_answer_that_lacks_a_field_is_an_error_of_one_line(service: RestService, tunesmith: Command) -> None:
    del service.job["created_at"]
    code, out, err = tunesmith("jobs")

    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.endswith("another version: data.0.created_at is missing\n")
