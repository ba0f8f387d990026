"""Removes what crashes left on the disk without a row: it moves jobs, adapters, other
artifacts and files to the trash.

It does nothing unless the home belongs to the database (`app.database.installation`).
"""

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy.orm import Session

from app import trash
from app.adapters import repository as adapters
from app.artifacts import repository as artifacts
from app.artifacts.names import ADAPTER, ARTIFACT_ID, PREFIX, job_id_of
from app.config import Settings
from app.database import installation
from app.database.connection import Database
from app.files import repository as files
from app.jobs import repository
from app.jobs.states import ENDED
from app.scope import EVERY_PROJECT, Scope

# A file is written shortly before its row, and a folder is removed shortly after its row.
ORPHAN_AFTER_SECONDS = 3600.0
DELETED_PREFIX = ".deleted-"


class AnotherInstallation(Exception):
    """The home and the database do not belong together. The message is for the operator."""


def check_belongs(database: Database, settings: Settings) -> None:
    """Check that home and database belong together, and mark a home that has no mark. Raises AnotherInstallation."""
    known, written = installation.of_database(database), installation.of_home(settings.root)
    if written is None and not _is_of_another(database, settings):
        installation.mark(settings.root, known)
    elif written != known:
        whose = f"belongs to {written}" if written else "holds jobs, adapters or files that it does not know"
        raise AnotherInstallation(
            f"the database belongs to {known}, and the home {settings.root} {whose}: nothing is removed from it. Check "
            "TUNESMITH_DATABASE_URL and TUNESMITH_HOME; if the two do belong together, run `tunesmith adopt`"
        )


def _is_of_another(database: Database, settings: Settings) -> bool:
    """Return whether the home holds jobs, adapters or files, none of which is in the database."""
    named = {kind: [path.name for path in _named(settings.root / f"{kind}s", kind)] for kind in KINDS}
    with database.reader() as session:
        knows = any(KNOWN_TO_ROWS[kind](session, EVERY_PROJECT, names) for kind, names in named.items())
    return any(named.values()) and not knows


def sweep_orphans(database: Database, settings: Settings, older_than: float = ORPHAN_AFTER_SECONDS) -> list[Path]:
    """Move jobs, artifacts and files without a row to the trash, and delete half-removed ones.

    `older_than` is in seconds. Returns what was removed. Other names are not touched, and neither is a folder none of
    whose entries is in the database. Raises AnotherInstallation, with nothing done.
    """
    check_belongs(database, settings)
    swept: list[Path] = []
    limit = time.time() - older_than
    for kind, find_known in KINDS.items():
        folder = settings.root / f"{kind}s"
        named = _named(folder, kind)
        with database.reader() as session:
            known = find_known(session, EVERY_PROJECT, [path.name for path in named]) if named else set()
        orphans = [path for path in named if path.name not in known] if known else []
        swept += [path for path in orphans if _removed_if_old(path, limit, trash.throw)]
        swept += [path for path in folder.glob(f"{DELETED_PREFIX}*") if _removed_if_old(path, limit, _remove)]
        trash.empty(folder)
    return swept


def _known_jobs(session: Session, scope: Scope, names: list[str]) -> set[str]:
    return {name for name in names if repository.find_status(session, scope, name) is not None}


def _known_files(session: Session, scope: Scope, names: list[str]) -> set[str]:
    return {name for name in names if files.get(session, scope, name) is not None}


def _with_row(session: Session, scope: Scope, names: list[str]) -> set[str]:
    return {name for name in names if adapters.get(session, scope, name) is not None}


def _known_adapters(session: Session, scope: Scope, names: list[str]) -> set[str]:
    """Return the adapters with a row, and those whose job has not ended or is not in the database.

    A running job stores the row at its end; a job may be missing because the database is an older copy.
    """
    return _with_row(session, scope, names) | {name for name in names if not _has_ended(session, scope, name)}


def _known_artifacts(session: Session, scope: Scope, names: list[str]) -> set[str]:
    """As `_known_adapters`, of artifacts that are no adapters."""
    return artifacts.known_among(session, scope, names) | {
        name for name in names if not _has_ended(session, scope, name)
    }


def _has_ended(session: Session, scope: Scope, artifact_id: str) -> bool:
    """Return whether the job of an adapter or another artifact has ended."""
    status = repository.find_status(session, scope, job_id_of(artifact_id))
    return status is not None and status in ENDED


Known = Callable[[Session, Scope, list[str]], set[str]]
KNOWN_TO_ROWS: dict[str, Known] = {
    "job": _known_jobs,
    ADAPTER: _with_row,
    PREFIX: artifacts.known_among,
    "file": _known_files,
}
KINDS: dict[str, Known] = {**KNOWN_TO_ROWS, ADAPTER: _known_adapters, PREFIX: _known_artifacts}


def _named(folder: Path, kind: str) -> list[Path]:
    """Return the entries whose name is an id. The caller must list them before it queries the rows."""
    return [path for path in folder.glob(f"{kind}-*") if is_id(path.name, kind)]


def is_id(name: str, kind: str) -> bool:
    """Return whether a name is an id of something of a kind."""
    pattern = ARTIFACT_ID if kind == PREFIX else re.compile(rf"{kind}-[a-z2-7]{{24}}")
    return pattern.fullmatch(name) is not None


def _removed_if_old(path: Path, limit: float, remove: Callable[[Path], object]) -> bool:
    """Remove what was last changed before the limit, and return whether it is gone. Links are not followed."""
    with suppress(FileNotFoundError):
        if path.lstat().st_mtime >= limit:
            return False
        remove(path)
    return not os.path.lexists(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
