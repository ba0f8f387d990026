"""What is removed, and when: jobs on request, and at their age where the operator says so, with all that is theirs; dry
runs, old keys and workers that are gone in passing; and what a crash left on the disk without a row."""

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from app.adapters import repository as adapters
from app.config import Settings
from app.db import Database, utc_now
from app.files import repository as files
from app.jobs import idempotency, repository
from app.jobs.ending import end
from app.jobs.states import ENDED

# An answer is read from an ended dry run within moments; whose request is gone is swept after so long.
DRY_RUN_IS_READ_WITHIN = timedelta(minutes=1)
DRY_RUN_IS_ABANDONED_AFTER = timedelta(hours=1)
WORKER_IS_FORGOTTEN_AFTER = timedelta(days=1)
# In one round, so that a first sweep of years of jobs holds nobody up.
EXPIRED_AT_ONCE = 20
# A file is there a moment before its row, and a folder a moment after it.
ORPHAN_AFTER_SECONDS = 3600.0
ASIDE = ".deleted-"


def remove(session: Session, settings: Settings, job_id: str) -> bool:
    """Rows and folder of an ended job. False, and nothing was done, when it is not there or has not ended.

    The rows go first: cut off between the two, a folder is left that nobody can name, which `sweep_orphans` removes.
    """
    if not repository.remove(session, job_id):
        session.rollback()
        return False
    session.commit()
    _remove_path(settings.job_dir(job_id))
    return True


def end_dry_run(session: Session, settings: Settings, job_id: str) -> None:
    """Nobody waits for its answer: it is removed, or ended by the checker that holds it and swept afterwards."""
    job = end(session, job_id)
    session.commit()
    if job is None or job.status.is_final:
        remove(session, settings, job_id)


def sweep(database: Database, settings: Settings) -> None:
    """Remove what has had its time: dry runs whose requests are gone, jobs, keys, workers. Safe to run anywhere, any
    number of times."""
    with database.reader() as session:
        over = [run.id for run in repository.dry_runs(session) if _is_over(run)]
        expired = _expired(session, settings.keep_jobs_days)
        has_old_keys = idempotency.has_old(session)
        gone = repository.silent_workers(session, WORKER_IS_FORGOTTEN_AFTER)
    for job_id in over:
        with database.writer() as session:
            end_dry_run(session, settings, job_id)
    for job_id in expired:
        with database.writer() as session:
            _expire(session, settings, job_id)
    if has_old_keys or gone:
        with database.writer() as session:
            idempotency.sweep(session)
            repository.forget_workers(session, gone, WORKER_IS_FORGOTTEN_AFTER)
            session.commit()


def _is_over(run: repository.DryRun) -> bool:
    now = utc_now()
    is_read = run.finished_at is not None and run.finished_at < now - DRY_RUN_IS_READ_WITHIN
    return is_read or run.created_at < now - DRY_RUN_IS_ABANDONED_AFTER


def _expired(session: Session, keep_days: int | None) -> Sequence[str]:
    if keep_days is None:
        return ()
    return repository.expired(session, utc_now() - timedelta(days=keep_days), EXPIRED_AT_ONCE)


def _expire(session: Session, settings: Settings, job_id: str) -> None:
    """Remove an ended job, unless somebody began to go on from it meanwhile."""
    repository.lock(session, job_id)
    if repository.continued_by(session, job_id) is None:
        remove(session, settings, job_id)


def sweep_orphans(database: Database, settings: Settings, older_than: float = ORPHAN_AFTER_SECONDS) -> list[Path]:
    """Remove what a crash left on the disk: jobs, adapters and files without a row, and half-removed ones.

    `older_than` is in seconds. Returns what was removed. Whatever else an operator keeps there is left alone, and so
    is a folder of which nothing is known: it belongs to another database, or to one that was set up anew.
    """
    removed: list[Path] = []
    for kind, find_known in KINDS.items():
        named = _named(settings.root / f"{kind}s", kind)
        with database.reader() as session:
            known = find_known(session, [path.name for path in named]) if named else set()
        orphans = [path for path in named if path.name not in known] if known else []
        limit = time.time() - older_than
        removed += [path for path in (*orphans, *_aside(settings.root / f"{kind}s")) if _remove_old(path, limit)]
    return removed


def _known_jobs(session: Session, names: list[str]) -> set[str]:
    return {name for name in names if repository.find_status(session, name) is not None}


def _known_files(session: Session, names: list[str]) -> set[str]:
    return {name for name in names if files.get(session, name) is not None}


def _known_adapters(session: Session, names: list[str]) -> set[str]:
    """Those with a row, and those that no ended job accounts for: one that runs stores the row at its end, and of one
    that is not there the database may be an older copy."""
    return {name for name in names if adapters.get(session, name) is not None or not _has_ended(session, name)}


def _has_ended(session: Session, adapter_id: str) -> bool:
    status = repository.find_status(session, f"job-{adapter_id.removeprefix('adapter-')}")
    return status is not None and status in ENDED


KINDS: dict[str, Callable[[Session, list[str]], set[str]]] = {
    "job": _known_jobs,
    "adapter": _known_adapters,
    "file": _known_files,
}


def _named(folder: Path, kind: str) -> list[Path]:
    """The entries that bear an id; they are listed before the rows are asked for."""
    pattern = re.compile(rf"{kind}-[a-z2-7]{{24}}")
    return [path for path in folder.glob(f"{kind}-*") if pattern.fullmatch(path.name)]


def _aside(folder: Path) -> list[Path]:
    return list(folder.glob(f"{ASIDE}*"))


def _remove_old(path: Path, limit: float) -> bool:
    """Whether it was last changed before the limit, and is gone now. A link goes, and never what it leads to."""
    with suppress(FileNotFoundError):
        if path.lstat().st_mtime >= limit:
            return False
        _remove_path(path)
    return not os.path.lexists(path)


def _remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
