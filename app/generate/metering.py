"""Counts requests and tokens of answers. They are stored every few seconds, away from the requests themselves."""

import logging
import threading
from collections import Counter, defaultdict

from app.access import usage
from app.access.usage import UsageKey
from app.contracts.generation import Usage
from app.database.connection import AWAY, Database, utc_now
from app.scope import EVERY_PROJECT

SECONDS = 2.0
log = logging.getLogger(__name__)


class Meter:
    """The counts of this process that are not stored yet. A process that is killed loses those of two seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._counts: defaultdict[UsageKey, Counter[str]] = defaultdict(Counter)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._store_regularly, name="usage", daemon=True)
        self._has_begun = False

    def add(self, project: str, caller: str, adapter: str | None, used: Usage, *, is_first: bool) -> None:
        """Count one answer. `is_first`: not a further answer to one prompt, whose tokens count once."""
        key = UsageKey(utc_now().date(), project, caller, adapter or usage.UNKNOWN)
        with self._lock:
            self._counts[key].update(
                requests=int(is_first),
                prompt_tokens=used.prompt_tokens if is_first else 0,
                completion_tokens=used.completion_tokens,
            )
            if not self._has_begun:
                self._has_begun = True
                self._thread.start()

    def close(self) -> None:
        """Store what is left."""
        self._stopping.set()
        if self._has_begun:
            self._thread.join()
        self._store()

    def _store_regularly(self) -> None:
        while not self._stopping.wait(SECONDS):
            self._store()

    def _store(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, defaultdict(Counter)
        if not counts:
            return
        try:
            with self._database.writer() as session:
                for key, added in counts.items():
                    usage.add(session, EVERY_PROJECT, key, **added)
                session.commit()
        except AWAY as error:
            log.warning("usage is stored later: %s", self._database.why_away(error))
            with self._lock:
                for key, added in counts.items():
                    self._counts[key].update(added)
