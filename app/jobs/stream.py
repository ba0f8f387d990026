"""Follows a job's events for SSE. No database connection is held while there is nothing to send."""

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from app.db import Database
from app.jobs import repository, service
from app.jobs.schemas import EventView

POLL_SECONDS = 0.5
BATCH = 500


async def check(database: Database, job_id: str) -> None:
    """Raises NotFound before the stream begins, while a status can still be sent."""

    def find() -> None:
        with database.reader() as session:
            service.find(session, job_id)

    await run_in_threadpool(find)


async def follow(database: Database, job_id: str, after: int) -> AsyncIterator[dict[str, str]]:
    """Yield every event above `after` as an SSE message, until the job has ended and all of it is sent."""
    while True:
        batch, is_over = await run_in_threadpool(_next_events, database, job_id, after)
        for event in batch:
            after = event.seq
            yield {"id": str(event.seq), "event": event.kind, "data": json.dumps(event.flat())}
        if is_over:
            return
        if not batch:
            await asyncio.sleep(POLL_SECONDS)


def _next_events(database: Database, job_id: str, after: int) -> tuple[list[EventView], bool]:
    """The next events, and whether no further can come. The job is read first: its last event comes with its status."""
    with database.reader() as session:
        job = repository.get(session, job_id)
        if job is None:
            return [], True
        is_ended, last = job.status.is_final, job.last_seq
        found = repository.events(session, job_id, after=after, limit=BATCH)
        events = [EventView.of(event) for event in found]
    newest = events[-1].seq if events else after
    return events, is_ended and newest >= last
