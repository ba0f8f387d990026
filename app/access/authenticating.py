"""Finds out whose key a client sends. Keys are read from the database for every request, so that a revoked one is
refused by every process at once.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from anyio import to_thread

from app.access import repository
from app.access.caller import Grant, Identity
from app.access.keys import PresentedKey, is_equal
from app.access.limits import NO_LIMITS, KeyLimits, Limits, read_limits
from app.access.models import ApiKey, Project
from app.access.peppers import peppers
from app.access.permissions import Permission, with_included
from app.access.quotas import Quota, both_quotas, limits_of, stored_limits
from app.access.rates import RequestRates
from app.config import Settings
from app.database.batched_reads import BatchedReads
from app.database.connection import AWAY, Database, utc_now
from app.errors import Unauthenticated
from app.scope import EVERY_PROJECT, Scope, union

LEAST_SECONDS = 0.01
# `last_used_at` is written no more often than this.
USED_EVERY = timedelta(seconds=60)
PARAM = "authorization"
RATE = "requests_per_minute"
NOT_VALID = "this is no key of this service: an administrator makes one with `tunesmith keys create`"


@dataclass(frozen=True)
class StoredKey:
    """What of a key's row decides about requests."""

    hash: str
    identity: Identity
    rates: Sequence[Quota]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, row: ApiKey, of_project: Limits) -> "StoredKey":
        scope = EVERY_PROJECT if row.project is None else Scope(frozenset({row.project}))
        known = frozenset(one for one in Permission if one.value in row.permissions)
        limits = read_limits(KeyLimits, row.limits)
        identity = Identity(row.id, (Grant(scope, with_included(known)),), row.max_priority, limits)
        rates = both_quotas(RATE, row.id, limits, row.project, of_project)
        return cls(row.hash, identity, rates, row.expires_at, row.revoked_at, row.last_used_at)


class Keys:
    """The keys that this process is asked about."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._peppers: Sequence[bytes] = ()
        self._rates = RequestRates(settings.api_processes)
        self._reads: BatchedReads[str, StoredKey | None] = BatchedReads(self._read, LEAST_SECONDS)
        self._project_limits: BatchedReads[str, Limits] = BatchedReads(self._read_limits, LEAST_SECONDS)
        self._marking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for what is being stored."""
        await asyncio.gather(*self._marking)

    async def count(self, person: Identity) -> None:
        """Count a request of a person, in the project that pays for it. Raises TooMany, and the errors in `AWAY`."""
        project = union(grant.scope for grant in person.grants).paying_project
        limits = await self._project_limits.get(project)
        self._rates.count(both_quotas(RATE, person.name, person.limits, project, limits))

    async def identity(self, presented: PresentedKey) -> Identity:
        """Return the owner of a key, and count its request. Raises Unauthenticated, TooMany, and those in `AWAY`."""
        stored = await self.check(presented)
        self._rates.count(stored.rates)
        return stored.identity

    async def check(self, presented: PresentedKey) -> StoredKey:
        """Return a key that is valid now. Raises Unauthenticated, SecretKeyMissing, and the errors in `AWAY`."""
        self._peppers = self._peppers or peppers(self._settings)
        stored = await self._reads.get(presented.key_id)
        if stored is None or not is_equal(presented.secret, stored.hash, self._peppers):
            raise Unauthenticated(NOT_VALID, param=PARAM)
        now = utc_now()
        if stored.revoked_at is not None:
            raise Unauthenticated(f"{presented.key_id} was revoked", param=PARAM, code="revoked_api_key")
        if stored.expires_at is not None and stored.expires_at <= now:
            message = f"{presented.key_id} expired at {stored.expires_at.isoformat(timespec='seconds')}"
            raise Unauthenticated(message, param=PARAM, code="expired_api_key")
        if stored.last_used_at is None or now - stored.last_used_at > USED_EVERY:
            self._mark(presented.key_id, now)
        return stored

    def _read(self, key_ids: Sequence[str]) -> Mapping[str, StoredKey | None]:
        with self._database.reader() as session:
            found = repository.among(session, EVERY_PROJECT, key_ids)
            rows = {row.id: StoredKey.of(row, self._limits(row, project)) for row, project in found}
        return {key_id: rows.get(key_id) for key_id in key_ids}

    def _limits(self, row: ApiKey, project: Project | None) -> Limits:
        return NO_LIMITS if row.project is None else stored_limits(project, self._settings)

    def _read_limits(self, projects: Sequence[str]) -> Mapping[str, Limits]:
        with self._database.reader() as session:
            return {project: limits_of(session, EVERY_PROJECT, self._settings, project) for project in projects}

    def _mark(self, key_id: str, now: datetime) -> None:
        """Store that a key was used, without letting its request wait for it."""
        if any(task.get_name() == key_id for task in self._marking):
            return
        task = asyncio.create_task(to_thread.run_sync(self._store_use, key_id, now), name=key_id)
        self._marking.add(task)
        task.add_done_callback(self._marking.discard)

    def _store_use(self, key_id: str, now: datetime) -> None:
        try:
            with self._database.writer() as session:
                repository.set_used(session, EVERY_PROJECT, key_id, now)
                session.commit()
        except AWAY:
            return  # the next request of the key tries again
