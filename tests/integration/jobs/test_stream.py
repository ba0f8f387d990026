"""A job's events as they happen: all of them, to any number of followers, to the end of the job or of its row."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from app.config import Settings
from app.contracts.events import Noticed
from app.database.connection import Database
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.queue.claims import Claim, finish, record
from app.jobs.states import JobStatus
from app.jobs.views.stream import Page, Streams
from tests.support.jobs import NOW, add_job, read, take
from tests.support.jobs_api import an_app
from tests.support.serving import serving
from tests.support.waiting import wait_for

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


def test_followers_from_different_places_get_all_that_is_theirs_in_order(url: str, database: Database) -> None:
    """Some of them while the job goes on, in batches larger than what is read at once."""
    claim = a_running_job(database, events=700)
    path = f"{url}/jobs/{claim.job_id}/stream"
    wanted = [0, 1, 499, 500, 501, 702, 900]
    with ExitStack() as open_streams, httpx.Client(limits=httpx.Limits(max_connections=None), timeout=20) as client:
        streams = [
            open_streams.enter_context(client.stream("GET", path, headers={"Last-Event-ID": str(after)}))
            for after in wanted
        ]
        for batch in range(1, 4):
            with database.writer() as session:
                record(session, claim, [NOTICE] * 200, 10 + batch)
                session.commit()
        end(database, claim)
        found = [[fields["seq"] for _, fields in messages(stream.iter_lines())] for stream in streams]

    assert found == [list(range(after + 1, 1304)) for after in wanted]


def test_all_followers_share_one_reader_which_ends_with_the_last(database: Database) -> None:
    claim = a_running_job(database)
    streams = CountingStreams(database)

    async def follow_together() -> tuple[list[int], int]:
        followers = [asyncio.create_task(read_all(streams.follow(claim.job_id, 0))) for _ in range(50)]
        while streams.looks < 3:
            await asyncio.sleep(0.01)
        pages = streams.pages
        await asyncio.to_thread(end, database, claim)
        sizes = [text.count(b"event:") for text in await asyncio.gather(*followers)]
        async with asyncio.timeout(10):
            while streams.is_reading:
                await asyncio.sleep(0.01)
        return sizes, pages

    sizes, pages = asyncio.run(follow_together())

    assert sizes == [4] * 50
    assert pages == 1


class CountingStreams(Streams):
    """Streams that count how often the database is asked."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, most=100)
        self.looks = self.pages = 0

    @property
    def is_reading(self) -> bool:
        return self._reader is not None

    async def _look(self) -> None:
        self.looks += 1
        await super()._look()

    async def _read_page(self, job_id: str, after: int) -> Page:
        self.pages += 1
        return await super()._read_page(job_id, after)


async def read_all(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def test_a_stream_too_many_is_refused_by_the_name_of_the_limit(
    settings: Settings, database: Database, database_url: str
) -> None:
    claim = a_running_job(database)
    with serving(an_app(settings.model_copy(update={"max_streams": 2}), database_url)) as url, ExitStack() as streams:
        path = f"{url}/jobs/{claim.job_id}/stream"
        first = streams.enter_context(httpx.stream("GET", path, timeout=10))
        streams.enter_context(httpx.stream("GET", path, timeout=10))
        refused = httpx.get(path, timeout=10)
        first.close()
        again = wait_for("one may follow again", lambda: status_of_stream(path) == 200)

    assert (refused.status_code, int(refused.headers["retry-after"])) == (429, 5)
    assert refused.json()["error"]["code"] == "too_many_streams"
    assert "TUNESMITH_MAX_STREAMS allows 2" in refused.json()["error"]["message"]
    assert again


def status_of_stream(path: str) -> int:
    with httpx.stream("GET", path, timeout=10) as stream:
        return stream.status_code


def test_streams_outlast_a_database_that_is_away_for_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = a_running_job(database)
    streams = CountingStreams(database)
    newest = repository.newest_events

    def away(*_: object) -> dict[str, int]:
        raise OperationalError("SELECT", {}, Exception("away"))

    async def follow() -> bytes:
        following = asyncio.create_task(read_all(streams.follow(claim.job_id, 3)))
        while streams.looks < 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(end, database, claim)
        monkeypatch.setattr(repository, "newest_events", newest)
        return await following

    monkeypatch.setattr(repository, "newest_events", away)

    assert asyncio.run(follow()).count(b"event: status") == 1
