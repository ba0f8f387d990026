"""Regularly removes from a home, and from the store, what crashes left without a row.

The API does it. With a store every worker sweeps its home too, because no API may be using it.
"""

import logging
import threading
from contextlib import closing

from app.config import Settings
from app.database.connection import Database
from app.files.storage import sweep_partials
from app.jobs.queue.orphans import AnotherInstallation, sweep_orphans
from app.jobs.queue.retention import add_missing_artifacts
from app.jobs.queue.store_orphans import sweep_store
from app.processes.lock import CannotStart, hold_lock
from app.store.faults import StoreAway

# No upload takes longer than a day, so older partial files can be deleted.
LONGEST_UPLOAD_SECONDS = 86_400
SECONDS_BETWEEN_SWEEPS = 3600.0
log = logging.getLogger(__name__)


def sweep_regularly(settings: Settings, stopping: threading.Event, *, has_store: bool = True) -> None:
    """Sweep the home every hour, and with `has_store` also the store, if there is one."""
    while not stopping.is_set():
        sweep(settings, has_store=has_store)
        stopping.wait(SECONDS_BETWEEN_SWEEPS)


def sweep(settings: Settings, *, has_store: bool) -> None:
    """Sweep with connections of its own, as it may outlive the application, and in only one process at a time."""
    run = settings.root / "run"
    try:
        sweep_partials(settings.root / "files", LONGEST_UPLOAD_SECONDS)
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = hold_lock(run / "sweep.lock", "another process is removing files without a row")
        with lock, closing(Database.open(settings.database)) as database:
            add_missing_artifacts(database, since=None)
            for path in sweep_orphans(database, settings):
                log.info("removed %s, which has no row in the database", path)
            settings.files.evict()
            for key in sweep_store(database, settings) if has_store else ():
                log.info("removed %s from the store: it has no row in the database", key)
    except CannotStart as held:
        log.info("%s", held)
    except AnotherInstallation as error:
        log.error("%s", error)
    except StoreAway as error:
        log.warning("nothing was removed from the store: %s", error)
    except Exception:  # the service works without it, and the next sweep tries again
        log.exception("files that a crash left on the disk could not be removed")
