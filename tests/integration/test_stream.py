"""A job's events as they happen: all of them, to any number of followers, to the end of the job or of its row."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.contracts.events import Noticed
from app.db import Database
from app.jobs import repository
from app.jobs.claims import Claim, finish, record
from app.jobs.models import Job
from app.jobs.states import JobStatus
from tests.integration.jobs import NOW, add_job, read, take
from tests.integration.jobs_api import an_app
from tests.serving import serving

# More than the connections that the API may have open to its database.
MANY = 70
NOTICE = Noticed(code="a", message="x" * 10_000)


@pytest.fixture
def url(database: Database, database_url: str, settings: Settings) -> Iterator[str]:
    with serving(an_app(settings, database_url)) as found:
        yield found


def a_running_job(database: Database, events: int = 1) -> Claim:
    add_job(database)
    claim = take(database)
    assert claim is not None
    with database.writer() as session:
        record(session, claim, [NOTICE] * events, 10)
        session.commit()
    return claim


def end(database: Database, claim: Claim) -> None:
    with database.writer() as session:
        finish(session, claim, JobStatus.FAILED, NOW, outcome="failed", reason=None)
        session.commit()


def remove(database: Database, job_id: str) -> None:
    with database.writer() as session:
        assert repository.remove(session, job_id)
        session.commit()


def messages(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def test_a_stream_ends_with_the_last_event_of_its_job(url: str, database: Database) -> None:
    claim = a_running_job(database)
    with httpx.stream("GET", f"{url}/jobs/{claim.job_id}/stream", timeout=20) as stream:
        found = messages(stream.iter_lines())
        first = [next(found)[0] for _ in range(3)]
        end(database, claim)
        rest = list(found)

    assert first == ["status", "status", "notice"]
    assert [(kind, fields["seq"], fields["status"]) for kind, fields in rest] == [("status", 4, "failed")]


def test_a_stream_of_a_job_that_is_deleted_says_so(url: str, database: Database) -> None:
    claim = a_running_job(database)
    with httpx.stream("GET", f"{url}/jobs/{claim.job_id}/stream", timeout=20) as stream:
        found = messages(stream.iter_lines())
        first = [next(found)[1]["seq"] for _ in range(3)]
        end(database, claim)
        remove(database, claim.job_id)
        rest = list(found)

    assert first == [1, 2, 3]
    assert rest[-1][0] == "deleted"
    assert [kind for kind, _ in rest[:-1]] in ([], ["status"])  # what it saw before the row was gone
    assert rest[-1][1]["seq"] == 3 + len(rest[:-1])


def test_what_happened_before_the_removal_is_sent_before_it_is_said(url: str, database: Database) -> None:
    """More events than a batch: the job is gone before a slow follower has seen the first of them."""
    claim = a_running_job(database, events=1100)
    with httpx.stream("GET", f"{url}/jobs/{claim.job_id}/stream", timeout=20) as stream:
        found = messages(stream.iter_lines())
        sent = [next(found)[1]["seq"]]
        end(database, claim)
        remove(database, claim.job_id)
        rest = list(found)
        sent += [fields["seq"] for kind, fields in rest if kind != "deleted"]

    assert rest[-1][0] == "deleted"
    assert sent == list(range(1, len(sent) + 1))
    assert len(sent) >= 500


@pytest.mark.parametrize("after", ["4", "5", "999999999999999999"])
def test_a_stream_behind_the_last_event_of_an_ended_job_ends_at_once(url: str, database: Database, after: str) -> None:
    claim = a_running_job(database)
    end(database, claim)
    answer = httpx.get(f"{url}/jobs/{claim.job_id}/stream", headers={"Last-Event-ID": after}, timeout=5)

    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.parametrize("after", ["-1", "x", "1" * 19, "٣", ""])
def test_a_number_that_is_none_is_refused(url: str, database: Database, after: str) -> None:
    claim = a_running_job(database)
    headers = [(b"Last-Event-ID", after.encode())]
    answer = httpx.get(f"{url}/jobs/{claim.job_id}/stream", headers=headers, timeout=5)

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "Last-Event-ID")


def test_followers_that_do_not_read_hold_up_nobody(url: str, database: Database) -> None:
    claim = a_running_job(database, events=600)
    path = f"{url}/jobs/{claim.job_id}"
    with ExitStack() as open_streams, httpx.Client(limits=httpx.Limits(max_connections=None), timeout=10) as client:
        for _ in range(MANY):
            open_streams.enter_context(client.stream("GET", f"{path}/stream"))
        assert client.get(path).json()["status"] == "running"
        assert client.post(f"{path}/cancel").json()["cancel_requested"]
        end(database, claim)
        with client.stream("GET", f"{path}/stream") as stream:
            assert len(list(messages(stream.iter_lines()))) == 604


def test_a_dry_run_has_no_stream(url: str, database: Database) -> None:
    hidden = add_job(database, JobStatus.VALIDATING, is_dry_run=True)

    assert httpx.get(f"{url}/jobs/{hidden}/stream", timeout=5).status_code == 404
    assert isinstance(read(database, hidden), Job)
