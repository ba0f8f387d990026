"""Streams jobs' events (SSE): one reader of the database serves all streams of this process.

    which jobs have new events? ──one query, twice a second──> FollowedJob ──wakes──> its streams
    what are they?              ──one query for all streams that have sent the same events──────^

A stream asks for events by the number of the last one that it has sent. So none is lost or sent twice, and no queue is
needed. No database connection is held while there is nothing to send.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from app.access.quotas import BUSY_SECONDS, Quota
from app.database.connection import AWAY, Database, utc_now
from app.errors import TooMany
from app.jobs import repository, service
from app.jobs.schemas import EventView
from app.scope import Scope, union

POLL_SECONDS = 0.5
PING_SECONDS = 15
BATCH = 500
# Bytes that are given to a connection at once, which is the most that is held in memory for a slow client.
PIECE_BYTES = 64 * 1024
DELETED = "deleted"
# A job, and the scope of the clients that follow it.
Asked = tuple[Scope, str]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """The events after a number, encoded as SSE in pieces, and the state of the job at that moment."""

    pieces: list[bytes]
    last: int  # the number of the page's last event; without events, the requested number
    newest: int  # the number of the job's newest event
    is_full: bool = False  # there may be more events
    is_ended: bool = False
    is_gone: bool = False


class FollowedJob:
    """A job with streams: the number of its newest known event. Only the event loop uses it."""

    def __init__(self, newest: int) -> None:
        self.newest = newest
        self.waiting = 0
        self._is_over = False
        self._changed = asyncio.Event()

    def update(self, newest: int, *, is_over: bool = False) -> None:
        """Wake the streams. `is_over`: there will be no further update, as the job is gone or the reader failed."""
        if newest > self.newest or is_over:
            self.newest, self._is_over = newest, is_over
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def wait_beyond(self, newest: int) -> None:
        """Return once there are events above a number, or there will be no further update."""
        while self.newest <= newest and not self._is_over:
            await self._changed.wait()


class Streams:
    """All streams of this process, at most `most` at once."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._open = 0
        self._open_of: Counter[str] = Counter()
        self._watches: dict[Asked, FollowedJob] = {}
        self._pages: dict[tuple[Scope, str, int], asyncio.Future[Page]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def project_of(self, scope: Scope, job_id: str) -> str:
        """Return a job's project. Raises NotFound before the stream begins and its status is sent."""
        return await run_in_threadpool(_project_of, self._database, scope, job_id)

    @contextmanager
    def admitted(self, quotas: Sequence[Quota] = ()) -> Iterator[None]:
        """Count a stream as open, also in these of its caller and project. Raises TooMany."""
        for quota in quotas:
            if self._open_of[quota.of] >= quota.most:
                raise quota.refusal(f"{self._open_of[quota.of]} open streams", BUSY_SECONDS)
        if self._open >= self._most:
            limit = f"TUNESMITH_MAX_STREAMS allows {self._most} streams at once, and all of them are open"
            raise TooMany(f"{limit}: poll the job instead", code="too_many_streams")
        self._open += 1
        self._open_of.update(quota.of for quota in quotas)
        try:
            yield
        finally:
            self._open -= 1
            self._open_of.subtract(quota.of for quota in quotas)

    async def follow(self, scope: Scope, job_id: str, after: int) -> AsyncGenerator[bytes, None]:
        """Yield every event above `after` as SSE, until the job has ended and all of it is sent.

        If the job is deleted meanwhile, the last message is `deleted`. It has no number, because it is not stored.
        """
        while True:
            page = await self._page(scope, job_id, after)
            for piece in page.pieces:
                yield piece
            after = page.last
            if page.is_gone:
                yield _deleted(after)
            if page.is_gone or page.is_ended:
                return
            if not page.is_full:
                with self._watched((scope, job_id), page.newest) as watch:
                    await watch.wait_beyond(page.newest)

    async def _page(self, scope: Scope, job_id: str, after: int) -> Page:
        """Read the events after a number. Streams of one scope that request the same page at once share one read."""
        key = (scope, job_id, after)
        if key not in self._pages:
            reading = asyncio.ensure_future(self._read_page(scope, job_id, after))
            reading.add_done_callback(lambda _: self._pages.pop(key))
            self._pages[key] = reading
        return await asyncio.shield(self._pages[key])

    async def _read_page(self, scope: Scope, job_id: str, after: int) -> Page:
        return await run_in_threadpool(_read_page, self._database, scope, job_id, after)

    @contextmanager
    def _watched(self, asked: Asked, newest: int) -> Iterator[FollowedJob]:
        """Yield the followed job. It is dropped when no stream waits for it, and the reader ends with the last one."""
        watch = self._watches.setdefault(asked, FollowedJob(newest))
        watch.waiting += 1
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        try:
            yield watch
        finally:
            watch.waiting -= 1
            if not watch.waiting and self._watches.get(asked) is watch:
                del self._watches[asked]

    async def _read(self) -> None:
        try:
            while self._watches:
                await asyncio.sleep(POLL_SECONDS)
                await self._look()
        finally:  # if the reader failed, the streams read by themselves and meet the error
            self._reader = None
            watches, self._watches = self._watches, {}
            for watch in watches.values():
                watch.update(watch.newest, is_over=True)

    async def _look(self) -> None:
        watches = dict(self._watches)
        try:
            newest = await run_in_threadpool(_read_newest, self._database, list(watches))
        except AWAY as error:
            log.warning("streams wait, because the database is away: %s", type(error).__name__)
            return
        for (_, job_id), watch in watches.items():
            watch.update(newest.get(job_id, watch.newest), is_over=job_id not in newest)


class StreamResponse(EventSourceResponse):
    """One stream. Raises TooMany before it begins. `limits`: of its caller and project, for streams at once."""

    def __init__(self, streams: Streams, scope: Scope, job_id: str, after: int, quotas: Sequence[Quota] = ()) -> None:
        super().__init__(streams.follow(scope, job_id, after), ping=PING_SECONDS)
        self._streams, self._open_quotas = streams, quotas

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        with self._streams.admitted(self._open_quotas):
            await super().__call__(connection, receive, send)


def _project_of(database: Database, scope: Scope, job_id: str) -> str:
    with database.reader() as session:
        return service.find(session, scope, job_id).project


def _read_newest(database: Database, followed: Sequence[Asked]) -> dict[str, int]:
    """Read the numbers of all followed jobs at once. Each stream has read its job in its own scope before."""
    scope = union(scope for scope, _ in followed)
    with database.reader() as session:
        return repository.newest_events(session, scope, [*dict.fromkeys(job_id for _, job_id in followed)])


def _read_page(database: Database, scope: Scope, job_id: str, after: int) -> Page:
    """Read the job before its events: the last event is stored in the same commit as the final status."""
    with database.reader() as session:
        job = repository.get(session, scope, job_id)
        if job is None:
            return Page([], last=after, newest=after, is_gone=True)
        is_ended, newest = job.status.is_final, job.last_seq
        events = [EventView.of(event) for event in repository.events(session, scope, job_id, after=after, limit=BATCH)]
    last, is_full = events[-1].seq if events else after, len(events) == BATCH
    pieces = list(_pieces(events))
    return Page(pieces, last, max(newest, last), is_full=is_full, is_ended=is_ended and not is_full)


def _pieces(events: list[EventView]) -> Iterator[bytes]:
    """Join whole messages up to PIECE_BYTES, so that there are fewer writes than messages."""
    piece = b""
    for event in events:
        text = ServerSentEvent(id=str(event.seq), event=event.kind, data=json.dumps(event.flat())).encode()
        if piece and len(piece) + len(text) > PIECE_BYTES:
            yield piece
            piece = b""
        piece += text
    if piece:
        yield piece


def _deleted(after: int) -> bytes:
    fields = {"seq": after, "kind": DELETED, "at": utc_now().isoformat()}
    return ServerSentEvent(event=DELETED, data=json.dumps(fields)).encode()
