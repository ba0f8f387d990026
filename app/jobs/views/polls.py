"""Answers `GET /jobs/{id}`, the most frequent request.

One thread of a process reads. The jobs that are requested while it reads are read next, together and each one once. So
a thousand clients that poll a few jobs cost little more than one client, and polls never use up the threads of other
requests. A read begins after the request that it answers, so a client sees its own changes.
"""

import asyncio
from collections.abc import Sequence

from anyio import CapacityLimiter, to_thread

from app.database.connection import AWAY, Database
from app.jobs import service
from app.jobs.views.details import read_details
from app.scope import Scope, union

MOST_AT_ONCE = 200
# The least time between the starts of two reads. Requests that arrive meanwhile are read together.
LEAST_SECONDS = 0.02
Answer = bytes | Exception
# A job, and the scope of the clients that requested it.
Asked = tuple[Scope, str]


class Polls:
    """All polls of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._requested: dict[Asked, asyncio.Future[bytes]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def answer(self, scope: Scope, job_id: str) -> bytes:
        """Return the JSON of a job as it is now or a moment later. Raises NotFound, and the errors in `AWAY`."""
        answer = self._requested.setdefault((scope, job_id), asyncio.get_running_loop().create_future())
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(answer)

    async def _read(self) -> None:
        limiter = CapacityLimiter(1)
        loop = asyncio.get_running_loop()
        try:
            while self._requested:
                began = loop.time()
                now = dict(list(self._requested.items())[:MOST_AT_ONCE])
                self._requested = {asked: answer for asked, answer in self._requested.items() if asked not in now}
                try:
                    answers = await to_thread.run_sync(self._answers, list(now), limiter=limiter)
                    for asked, future in now.items():
                        _settle(future, answers[asked])
                finally:
                    for future in now.values():
                        future.cancel()  # does nothing if it has its result
                await asyncio.sleep(began + LEAST_SECONDS - loop.time())
        finally:
            self._reading = None

    def _answers(self, requested: Sequence[Asked]) -> dict[Asked, Answer]:
        """Read the jobs. If one of them cannot be read, only the requests for that job get the error."""
        try:
            return self._read_once(requested)
        except AWAY as error:
            return dict.fromkeys(requested, error)
        except Exception as error:  # noqa: BLE001  it is raised in the requests
            if len(requested) == 1:
                return {requested[0]: error}
            return {asked: answer for one in requested for asked, answer in self._answers([one]).items()}

    def _read_once(self, requested: Sequence[Asked]) -> dict[Asked, Answer]:
        """Read what any of the scopes permits, and compare each job with the scope of its own request."""
        scope = union(scope for scope, _ in requested)
        with self._database.reader() as session:
            details = read_details(session, scope, [*dict.fromkeys(job_id for _, job_id in requested)])
        bodies = {job_id: found.model_dump_json().encode() for job_id, found in details.items()}
        return {
            (scope, job_id): bodies[job_id]
            if job_id in details and scope.includes(details[job_id].project)
            else service.unknown_job(job_id)
            for scope, job_id in requested
        }


def _settle(future: asyncio.Future[bytes], answer: Answer) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
        future.exception()  # marked as retrieved, in case every client has disconnected
    else:
        future.set_result(answer)
