"""Answers `GET /jobs/{id}`, the most frequent request."""

from collections.abc import Mapping, Sequence

from app.database.batched_reads import BatchedReads
from app.database.connection import Database
from app.errors import NotFound
from app.jobs import service
from app.jobs.views.details import read_details
from app.scope import Scope, union

LEAST_SECONDS = 0.02
# A job, and the scope of the clients that requested it.
Asked = tuple[Scope, str]


class Polls:
    """All polls of this process. They are read together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads: BatchedReads[Asked, bytes] = BatchedReads(self._read, LEAST_SECONDS)

    async def answer(self, scope: Scope, job_id: str) -> bytes:
        """Return the JSON of a job as it is now or a moment later. Raises NotFound, and the errors in `AWAY`."""
        return await self._reads.get((scope, job_id))

    def _read(self, requested: Sequence[Asked]) -> Mapping[Asked, bytes | NotFound]:
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
