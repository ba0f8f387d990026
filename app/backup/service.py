"""`tunesmith backup` and `tunesmith restore`."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Literal

from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

from app import __version__
from app.backup import dumps
from app.backup.contents import (
    DATABASE,
    FORMAT,
    HOME,
    BackupFile,
    BackupManifest,
    BackupRefused,
    copy,
    damages,
    describe,
    plain_files,
)
from app.config import Settings
from app.database import installation
from app.database.connection import Database, utc_now
from app.database.migrate import config
from app.disk_faults import is_full
from app.processes.lock import hold_lock

MOST_NAMED = 10
# The folder of an attempt's temporary files, which are not copied.
SCRATCH = "work"
KINDS = ("files", "adapters", "artifacts", "jobs")
Say = Callable[[str], None]


def backup(settings: Settings, target: Path, say: Say, *, with_models: bool = False) -> BackupManifest:
    """Copy the installation into a folder that is empty or does not exist. The service may run meanwhile.

    Raises BackupRefused. An incomplete backup has no manifest.
    """
    _check_target(settings, target)
    dumps.check_ours(settings.database)
    if with_models and settings.models != settings.root / "models":
        say(f"{settings.models} is outside of the home and is not copied")
    with closing(Database.open(settings.database)) as database:
        installation.of_database(database)  # makes the id if there is none
    try:
        manifest = _copy_all(settings, target, with_models=with_models)
    except OSError as error:
        if not is_full(error):
            raise
        raise BackupRefused(f"the disk of {target} is full: the backup is incomplete") from error
    manifest.write(target)
    size = sum(file.bytes for file in manifest.files)
    say(f"{target}: {len(manifest.files)} files, {size / 1e9:.3f} GB")
    _name(manifest.missing, "files of these rows did not exist, or were deleted meanwhile", say)
    return manifest


def restore(settings: Settings, source: Path, say: Say) -> BackupManifest:
    """Restore a backup into an empty home and an empty database, as a new installation.

    Raises BackupRefused, with nothing changed, if the backup is incomplete, or home or database are not empty.
    """
    manifest = BackupManifest.read(source)
    _check_fits(settings, manifest)
    wrong = damages(source, manifest.files)
    if wrong:
        more = f" (and {len(wrong) - MOST_NAMED} more)" if len(wrong) > MOST_NAMED else ""
        raise BackupRefused(f"the backup is damaged: {'; '.join(wrong[:MOST_NAMED])}{more}")
    (settings.root / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
    refusal = f"`tunesmith up` runs on {settings.root}: a backup is restored into a home that is not in use"
    with ExitStack() as undo, hold_lock(settings.root / "run" / "up.lock", refusal):
        for kind in (*KINDS, *_others(manifest)):
            undo.callback(shutil.rmtree, settings.root / kind, ignore_errors=True)
        for file in _of_home(manifest):
            copy(source / file.path, settings.root / file.path.removeprefix(f"{HOME}/"), file.path)
        dumps.load(source / DATABASE, settings.database)
        undo.pop_all()
        with closing(Database.open(settings.database)) as database:
            name = installation.renew(database, settings.root)
    when = f"{manifest.made_at:%Y-%m-%d %H:%M:%S} UTC"
    say(f"{settings.root} was restored from {manifest.installation} of {when}, and is {name} from now on")
    _name(manifest.missing, "the backup does not have the files of these rows", say)
    return manifest


def _copy_all(settings: Settings, target: Path, *, with_models: bool) -> BackupManifest:
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = dumps.dump(settings.database, target / DATABASE)
    files, missing = [describe(target / DATABASE, DATABASE)], []
    for name, is_needed in _named(known, with_models=with_models):
        copied = _copy_whole(settings.root, name, target / HOME)
        files += copied
        if is_needed and not copied:
            missing.append(name)
    return BackupManifest(
        format=FORMAT,
        made_at=utc_now(),
        version=__version__,
        database=_kind(settings),
        revision=known.revision,
        installation=known.installation,
        files=files,
        missing=missing,
    )


def _kind(settings: Settings) -> Literal["sqlite", "postgresql"]:
    return "sqlite" if make_url(settings.database).get_backend_name() == "sqlite" else "postgresql"


def _named(known: dumps.Known, *, with_models: bool) -> Iterator[tuple[str, bool]]:
    """Yield the paths to copy, relative to the home, and whether they must exist: a job may have no files yet."""
    for name in known.files:
        yield f"files/{name}", True
    for name in known.adapters:
        yield f"adapters/{name}", True
    for name in known.artifacts:
        yield f"artifacts/{name}", True
    for name in known.jobs:
        yield f"jobs/{name}", False
    if with_models:
        yield from (("models", False), ("datasets", False))


def _copy_whole(home: Path, name: str, target: Path) -> list[BackupFile]:
    """Copy the file or folder of a name. Units of a job that change meanwhile are left out."""
    place = home / name
    if place.is_file():
        with suppress(FileNotFoundError):
            return [copy(place, target / name, f"{HOME}/{name}")]
        return []
    if name.startswith("jobs/"):
        return [file for unit in _units(place) for file in _copy_unit(home, unit, target)]
    return _copy_unit(home, plain_files(place, is_complete=name.startswith(("adapters/", "artifacts/"))), target)


def _units(job: Path) -> Iterator[list[Path]]:
    """Yield groups of files that belong together: each checkpoint, the data, each file or folder of an attempt."""
    groups: dict[str, list[Path]] = {}
    for path in plain_files(job):
        parts = path.relative_to(job).parts
        if parts[0] == "attempts" and SCRATCH in parts[2:3]:
            continue
        depth = {"data": 1, "checkpoints": 2, "attempts": 3}.get(parts[0], len(parts))
        groups.setdefault("/".join(parts[:depth]), []).append(path)
    yield from groups.values()


def _copy_unit(home: Path, paths: list[Path], target: Path) -> list[BackupFile]:
    """Copy all files, or none if one of them disappears meanwhile."""
    copied: list[BackupFile] = []
    try:
        for path in paths:
            name = str(path.relative_to(home))
            copied.append(copy(path, target / name, f"{HOME}/{name}"))
        if all(path.exists() for path in paths):
            return copied
    except FileNotFoundError:
        pass
    for path in paths:
        (target / path.relative_to(home)).unlink(missing_ok=True)
    return []


def _check_target(settings: Settings, target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupRefused(f"{target} is not empty: a backup is made in a folder of its own")
    if target.resolve().is_relative_to(settings.root):
        raise BackupRefused(f"{target} is in the home that is to be copied: choose a folder outside of it")


def _check_fits(settings: Settings, manifest: BackupManifest) -> None:
    kind = _kind(settings)
    if kind != manifest.database:
        raise BackupRefused(f"the backup is of {manifest.database}, TUNESMITH_DATABASE_URL names {kind}")
    script = ScriptDirectory.from_config(config())
    if manifest.revision not in {each.revision for each in script.walk_revisions()}:
        made = f"the backup was made by Tunesmith {manifest.version}, with the schema {manifest.revision}"
        raise BackupRefused(f"{made}, which this version, {__version__}, does not know: restore it with that version")
    present = [kind for kind in (*KINDS, installation.FILE, *_others(manifest)) if _has(settings.root / kind)]
    if present:
        raise BackupRefused(f"{settings.root} has {', '.join(present)}: a backup is restored into an empty home")
    dumps.check_empty(settings.database)


def _others(manifest: BackupManifest) -> list[str]:
    """`models` and `datasets`, if the backup has them."""
    return sorted({file.path.split("/")[1] for file in _of_home(manifest)} - set(KINDS))


def _of_home(manifest: BackupManifest) -> list[BackupFile]:
    return [file for file in manifest.files if file.path.startswith(f"{HOME}/")]


def _has(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _name(missing: list[str], what: str, say: Say) -> None:
    if missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        say(f"{what}: {', '.join(missing[:MOST_NAMED])}{more}")
