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
from app.jobs.views import stream
from app.jobs.views.stream import Page, Streams
from app.scope import EVERY_PROJECT, Scope
from tests.support.jobs import NOW, add_job, read, taken
from tests.support.jobs_api import an_app
from tests.support.serving import serving
from tests.support.waiting import wait_for

# More than the connections that the API may have open to its database.
MANY = 70
UNLIMITED = httpx.Limits(max_connections=None)
SHORT = Noticed(code="a", message="x")
# Hundreds of these are more than the buffers of a connection hold.
NOTICE = Noticed(code="a", message="x" * 10_000)


@pytest.fixture(scope="module")
def http(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of one API for all tests; no response of it is read before a test reads it."""
    app = an_app(Settings(home=tmp_path_factory.mktemp("api")), database_url)
    with serving(app) as url, httpx.Client(base_url=url, limits=UNLIMITED, timeout=20, verify=False) as client:
        yield client


@pytest.fixture(autouse=True)
def _quick_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "POLL_SECONDS", 0.1)


def a_running_job(database: Database, *events: Noticed) -> Claim:
    add_job(database)
    claim = taken(database)
    with database.writer() as session:
        record(session, claim, events or [SHORT], 10)
        session.commit()
    return claim


def end(database: Database, claim: Claim) -> None:
    with database.writer() as session:
        finish(session, claim, JobStatus.FAILED, NOW, outcome="failed", reason=None)
        session.commit()


def remove(database: Database, claim: Claim) -> None:
    """End a job and delete it at once: no follower sees it ended."""
    with database.writer() as session:
        finish(session, claim, JobStatus.FAILED, NOW, outcome="failed", reason=None)
        assert repository.remove(session, EVERY_PROJECT, claim.job_id)
        session.commit()


def messages(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def test_a_stream_ends_with_the_last_event_of_its_job(http: httpx.Client, database: Database) -> None:
    claim = a_running_job(database)
    with http.stream("GET", f"/jobs/{claim.job_id}/stream") as following:
        found = messages(following.iter_lines())
        first = [next(found)[0] for _ in range(3)]
        end(database, claim)
        rest = list(found)

    assert first == ["status", "status", "notice"]
    assert [(kind, fields["seq"], fields["status"]) for kind, fields in rest] == [("status", 4, "failed")]


def test_a_stream_of_a_job_that_is_deleted_says_so(http: httpx.Client, database: Database) -> None:
    claim = a_running_job(database)
    with http.stream("GET", f"/jobs/{claim.job_id}/stream") as following:
        found = messages(following.iter_lines())
        first = [next(found)[1]["seq"] for _ in range(3)]
        remove(database, claim)
        rest = list(found)

    assert first == [1, 2, 3]
    assert [(kind, fields["seq"]) for kind, fields in rest] == [("deleted", 3)]


def test_what_happened_before_the_removal_is_sent_before_it_is_said(http: httpx.Client, database: Database) -> None:
    """More events than a batch: the job is gone before a slow follower has seen the first of them."""
    claim = a_running_job(database, *[NOTICE] * 1100)
    with http.stream("GET", f"/jobs/{claim.job_id}/stream") as following:
        found = messages(following.iter_lines())
        sent = [next(found)[1]["seq"]]
        remove(database, claim)
        rest = list(found)
        sent += [fields["seq"] for kind, fields in rest if kind != "deleted"]

    assert rest[-1][0] == "deleted"
    assert sent == list(range(1, len(sent) + 1))
    assert len(sent) >= 500


@pytest.mark.parametrize("after", ["4", "5", "999999999999999999"])
def test_a_stream_behind_the_last_event_of_an_ended_job_ends_at_once(
    http: httpx.Client, database: Database, after: str
) -> None:
    claim = a_running_job(database)
    end(database, claim)
    answer = http.get(f"/jobs/{claim.job_id}/stream", headers={"Last-Event-ID": after}, timeout=5)

    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.parametrize("after", ["-1", "x", "1" * 19, "٣", ""])
def test_a_number_that_is_none_is_refused(http: httpx.Client, database: Database, after: str) -> None:
    claim = a_running_job(database)
    headers = [(b"Last-Event-ID", after.encode())]
    answer = http.get(f"/jobs/{claim.job_id}/stream", headers=headers)

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "Last-Event-ID")


def test_followers_that_do_not_read_hold_up_nobody(http: httpx.Client, database: Database) -> None:
    claim = a_running_job(database, *[NOTICE] * 600)
    path = f"/jobs/{claim.job_id}"
    with ExitStack() as open_streams:
        for _ in range(MANY):
            open_streams.enter_context(http.stream("GET", f"{path}/stream"))
        assert http.get(path).json()["status"] == "running"
        assert http.post(f"{path}/cancel").json()["cancel_requested"]
        end(database, claim)
        with http.stream("GET", f"{path}/stream") as following:
            assert len(list(messages(following.iter_lines()))) == 604


def test_a_temporary_job_has_no_stream(http: httpx.Client, database: Database) -> None:
    hidden = add_job(database, JobStatus.VALIDATING, is_temporary=True)

    assert http.get(f"/jobs/{hidden}/stream").status_code == 404
    assert isinstance(read(database, hidden), Job)


def test_followers_from_different_places_get_all_that_is_theirs_in_order(
    http: httpx.Client, database: Database
) -> None:
    """Some of them while the job goes on, in batches larger than what is read at once."""
    claim = a_running_job(database, *[SHORT] * 700)
    path = f"/jobs/{claim.job_id}/stream"
    wanted = [0, 1, 499, 500, 501, 702, 900]
    with ExitStack() as open_streams:
        streams = [
            open_streams.enter_context(http.stream("GET", path, headers={"Last-Event-ID": str(after)}))
            for after in wanted
        ]
        for batch in range(1, 4):
            with database.writer() as session:
                record(session, claim, [SHORT] * 200, 10 + batch)
                session.commit()
        end(database, claim)
        found = [[fields["seq"] for _, fields in messages(each.iter_lines())] for each in streams]

    assert found == [list(range(after + 1, 1304)) for after in wanted]


def test_all_followers_share_one_reader_which_ends_with_the_last(database: Database) -> None:
    claim = a_running_job(database)
    streams = CountingStreams(database)

    async def follow_together() -> tuple[list[int], int]:
        followers = [asyncio.create_task(read_all(streams.follow(EVERY_PROJECT, claim.job_id, 0))) for _ in range(50)]
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

    async def _read_page(self, scope: Scope, job_id: str, after: int) -> Page:
        self.pages += 1
        return await super()._read_page(scope, job_id, after)


async def read_all(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def test_a_stream_too_many_is_refused_by_the_name_of_the_limit(
    settings: Settings, database: Database, database_url: str
) -> None:
    path = f"/jobs/{a_running_job(database).job_id}/stream"
    app = an_app(settings.model_copy(update={"max_streams": 2}), database_url)
    with serving(app) as url, httpx.Client(base_url=url, timeout=10, verify=False) as http, ExitStack() as streams:
        first, _ = (streams.enter_context(http.stream("GET", path)) for _ in range(2))
        refused = http.get(path)
        first.close()
        wait_for("one may follow again", lambda: status_of_stream(http, path) == 200)

    assert (refused.status_code, int(refused.headers["retry-after"])) == (429, 5)
    assert refused.json()["error"]["code"] == "too_many_streams"
    assert "TUNESMITH_MAX_STREAMS allows 2" in refused.json()["error"]["message"]


def status_of_stream(http: httpx.Client, path: str) -> int:
    with http.stream("GET", path) as following:
        return following.status_code


def test_streams_outlast_a_database_that_is_away_for_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = a_running_job(database)
    streams = CountingStreams(database)
    newest = repository.newest_events

    def away(*_: object) -> dict[str, int]:
        raise OperationalError("SELECT", {}, Exception("away"))

    async def follow() -> bytes:
        following = asyncio.create_task(read_all(streams.follow(EVERY_PROJECT, claim.job_id, 3)))
        while streams.looks < 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(end, database, claim)
        monkeypatch.setattr(repository, "newest_events", newest)
        return await following

    monkeypatch.setattr(repository, "newest_events", away)

    assert asyncio.run(follow()).count(b"event: status") == 1
