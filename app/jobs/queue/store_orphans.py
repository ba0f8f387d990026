"""Removes from the store what has no row: entries go to its trash, and what cut-off uploads left is deleted.

It does nothing unless the store belongs to the database: both hold the same id (`app.database.installation`).
"""

import time

from app.config import Settings
from app.database import installation
from app.database.connection import Database
from app.jobs.queue.orphans import KINDS, ORPHAN_AFTER_SECONDS, AnotherInstallation, is_id
from app.scope import EVERY_PROJECT
from app.store.entries import EntryStore, now
from app.store.faults import ObjectMissing


def sweep_store(database: Database, settings: Settings, older_than: float = ORPHAN_AFTER_SECONDS) -> list[str]:
    """Return the keys of what was thrown away or deleted. `older_than` is in seconds.

    As in a home, nothing of a kind is removed while none of its entries is in the database. Raises
    AnotherInstallation, with nothing done, and StoreAway.
    """
    store = settings.files.entries
    if store is None:
        return []
    _check_belongs(store, database)
    thrown: list[str] = []
    limit = time.time() - older_than
    for kind, find_known in KINDS.items():
        found = [(key, key.split("/")[1], at.timestamp()) for key, at in store.below(f"{kind}s/")]
        named = sorted({name for _, name, _ in found if is_id(name, kind)})
        with database.reader() as session:
            known = find_known(session, EVERY_PROJECT, named) if named else set()
        orphans = set(named) - known if known else set()
        thrown += [key for key, name, stored_at in found if name in orphans and stored_at < limit]
    for key in thrown:
        store.throw(key, now().date())
    return thrown + store.sweep(now())


def _check_belongs(store: EntryStore, database: Database) -> None:
    """Check that store and database belong together, and mark a store that has no mark."""
    known = installation.of_database(database)
    try:
        written = store.bucket.content(installation.FILE).decode(errors="replace").strip()
    except ObjectMissing:
        store.bucket.write(installation.FILE, known.encode())
        return
    if written != known:
        raise AnotherInstallation(
            f"the database belongs to {known}, and the store of TUNESMITH_STORE_URL to {written[:60]}: nothing is "
            "removed from it. Check TUNESMITH_DATABASE_URL and TUNESMITH_STORE_URL; if the two do belong together, "
            f"delete the object {installation.FILE!r} of the store"
        )
