"""Follows a job's events for SSE. No database connection is held while there is nothing to send."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from app.db import Database, utc_now
from app.jobs import repository, service
from app.jobs.schemas import EventView

POLL_SECONDS = 0.5
BATCH = 500
DELETED = "deleted"


@dataclass(frozen=True)
class Batch:
    events: list[EventView]
    is_last: bool = False
    is_gone: bool = False


async def check(database: Database, job_id: str) -> None:
    """Raises NotFound before the stream begins, while a status can still be sent."""

    def find() -> None:
        with database.reader() as session:
            service.find(session, job_id)

    await run_in_threadpool(find)


async def follow(database: Database, job_id: str, after: int) -> AsyncIterator[dict[str, str]]:
    """Yield every event above `after` as an SSE message, until the job has ended and all of it is sent.

    The last message of a job that was deleted meanwhile is `deleted`. It has no number: it is kept nowhere.
    """
    while True:
        batch = await run_in_threadpool(_next_events, database, job_id, after)
        for event in batch.events:
            after = event.seq
            yield {"id": str(event.seq), "event": event.kind, "data": json.dumps(event.flat())}
        if batch.is_gone:
            yield {"event": DELETED, "data": json.dumps({"seq": after, "kind": DELETED, "at": utc_now().isoformat()})}
        if batch.is_last or batch.is_gone:
            return
        if not batch.events:
            await asyncio.sleep(POLL_SECONDS)


def _next_events(database: Database, job_id: str, after: int) -> Batch:
    """What came after a number. The job is read first: its last event comes with its status."""
    with database.reader() as session:
        job = repository.get(session, job_id)
        if job is None:
            return Batch([], is_gone=True)
        is_ended, last = job.status.is_final, job.last_seq
        found = repository.events(session, job_id, after=after, limit=BATCH)
        events = [EventView.of(event) for event in found]
    newest = events[-1].seq if events else after
    return Batch(events, is_last=is_ended and newest >= last)
