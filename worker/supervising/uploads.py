"""Stores a running attempt's checkpoints and log, so that another host can resume the job and show what it printed.

A thread does it beside the training. It is told of a checkpoint only when the event of it is committed, so the store
never has a checkpoint without its row. While the store is away it tries again; the training does not wait for it.
"""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from app.config import Settings
from app.contracts.checkpoints import NAME, outline
from app.contracts.events import AttemptEvent, CheckpointRemoved, CheckpointSaved
from app.hashing import hash_of_files
from app.jobs.kept_checkpoints import sha256_of
from app.jobs.queue.claims import Claim
from app.jobs.views.logs import LOG_NAME, stored_log
from app.processes.lock import wait_for_lock
from app.processes.log_rotation import offsets_file, rotated_log
from app.store.faults import EntryChanged, StoreAway

LOG_SECONDS = 30.0
RETRY_SECONDS = 2.0
# When the attempt is over, a store that is away is waited for so long. Older checkpoints are in it.
PATIENCE_SECONDS = 60.0
log = logging.getLogger(__name__)


class UploadsEnded(Exception):
    """The worker waits for the uploads no longer."""


class Uploads:
    """A context. Without a store it does nothing."""

    def __init__(self, settings: Settings, held: Claim, folder: Path) -> None:
        self._settings, self._held, self._folder = settings, held, folder
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._over, self._ends_at = threading.Event(), float("inf")
        self._shown: tuple[int, ...] = ()
        self._thread = threading.Thread(target=self._run, name=f"uploads-{held.job_id}", daemon=True)

    def take(self, events: Sequence[AttemptEvent]) -> None:
        """Take note of events that are committed."""
        if self._settings.store is None:
            return
        for event in events:
            if isinstance(event, CheckpointSaved | CheckpointRemoved) and NAME.fullmatch(Path(event.path).name):
                path = self._settings.checkpoints_dir(self._held.job_id) / Path(event.path).name
                is_saved = isinstance(event, CheckpointSaved)
                self._work.put(self._saving(path) if is_saved else self._forgetting(path))

    def finish(self) -> None:
        """Store what is left, and the log as it is now."""
        self._ends_at = min(self._ends_at, time.monotonic() + PATIENCE_SECONDS)
        self._work.put(None)

    @property
    def is_busy(self) -> bool:
        return self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait until all is stored, at most so long."""
        self._thread.join(seconds)

    def __enter__(self) -> Self:
        if self._settings.store is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                self._until_stored(work)
            self._until_stored(self._save_log)
        except UploadsEnded:
            log.warning("%s: not all of its checkpoints are in the store", self._held.job_id)
        except Exception:  # the training goes on without: older checkpoints are in the store
            log.exception("%s: its checkpoints cannot be stored", self._held.job_id)

    def _next(self) -> Callable[[], None] | None:
        """Wait for work, and return the log as work from time to time; None at the end."""
        while True:
            self._beat()
            try:
                return self._work.get(timeout=min(LOG_SECONDS, self._settings.lease_seconds / 2))
            except Empty:
                self._settings.files.touch(self._settings.job_dir(self._held.job_id))
                return self._save_log

    def _until_stored(self, work: Callable[[], None]) -> None:
        while True:
            try:
                work()
                return
            except StoreAway as error:
                log.warning("%s: %s", self._held.job_id, error)
                self._over.wait(RETRY_SECONDS)
                self._beat()
                if time.monotonic() >= self._ends_at:
                    raise UploadsEnded from error

    def _beat(self) -> None:
        if self._over.is_set():
            raise UploadsEnded

    def _saving(self, path: Path) -> Callable[[], None]:
        def save() -> None:
            found = outline(path)
            if found is None:  # it was removed for a newer one
                return
            try:
                self._settings.files.keep(path, sha256=hash_of_files(sha256_of(found)), beat=self._beat)
            except EntryChanged as error:
                log.warning("%s: %s", self._held.job_id, error)

        return save

    def _forgetting(self, path: Path) -> Callable[[], None]:
        return lambda: self._settings.files.forget(path)

    def _save_log(self) -> None:
        live = self._folder / LOG_NAME
        parts = [path for path in (live, rotated_log(live), offsets_file(live)) if path.is_file()]
        shown = tuple(path.stat().st_size for path in parts)
        if shown == self._shown:
            return
        with tempfile.TemporaryDirectory(prefix="log-") as name:
            if _copy_log(live, Path(name)):
                target = stored_log(self._settings.job_dir(self._held.job_id), self._held.epoch)
                self._settings.files.keep(target, source=Path(name), beat=self._beat)
                self._shown = shown


def _copy_log(live: Path, target: Path) -> bool:
    """Copy a log while it is not being rotated. Returns False if there is none, or a rotation takes too long."""
    try:
        with live.open("rb") as held:
            if live.is_symlink() or not wait_for_lock(held.fileno(), 1.0, is_shared=True):
                return False
            for path in (live, rotated_log(live), offsets_file(live)):
                if path.is_file() and not path.is_symlink():
                    shutil.copyfile(path, target / path.name)
    except OSError:
        return False
    return True
