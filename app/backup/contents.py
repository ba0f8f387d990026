"""The contents of a backup: files that are copied with their hashes, and the manifest that lists them."""

import hashlib
import os
import stat
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ValidationError

from app.processes.lock import CannotStart

MANIFEST, DATABASE, HOME = "manifest.json", "database", "home"
FORMAT = 1
CHUNK_BYTES = 1 << 20


class BackupRefused(CannotStart):
    """A backup cannot be made, read or restored. The installation was not changed."""


class BackupFile(BaseModel):
    """One file of a backup."""

    path: str
    bytes: int
    sha256: str


class BackupManifest(BaseModel):
    """manifest.json. `missing` names files of rows that did not exist, or were deleted while the backup was made."""

    format: int
    made_at: datetime
    version: str
    database: Literal["sqlite", "postgresql"]
    revision: str
    installation: str
    files: list[BackupFile]
    missing: list[str] = []

    @classmethod
    def read(cls, folder: Path) -> "BackupManifest":
        """Read the manifest of a backup. Raises BackupRefused if there is none that this version can read."""
        try:
            found = cls.model_validate_json((folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            message = f"{folder} is not a backup, or an incomplete one: it has no {MANIFEST}"
            raise BackupRefused(message) from None
        except ValidationError as error:
            raise BackupRefused(f"{folder / MANIFEST} cannot be read: {error.error_count()} errors") from error
        if found.format > FORMAT:
            message = f"{folder} is a backup of format {found.format}, made by Tunesmith {found.version}"
            raise BackupRefused(f"{message}; this version reads format {FORMAT}: restore it with that version")
        return found

    def write(self, folder: Path) -> None:
        draft = folder / f".{MANIFEST}"
        with _created(draft) as file:
            file.write(self.model_dump_json(indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / MANIFEST)


def copy(source: Path, target: Path, name: str) -> BackupFile:
    """Copy one file and flush it to the disk. A file that grows is copied as it is now. Raises FileNotFoundError."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _created(target) as written:
            while chunk := read.read(CHUNK_BYTES):
                digest.update(chunk)
                size += written.write(chunk)
            written.flush()
            os.fsync(written.fileno())
    return BackupFile(path=name, bytes=size, sha256=digest.hexdigest())


def describe(path: Path, name: str) -> BackupFile:
    with path.open("rb") as file:
        return BackupFile(path=name, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def damages(folder: Path, files: Iterable[BackupFile]) -> list[str]:
    """Return what differs from the manifest, a few words for each file."""
    return [f"{file.path} {wrong}" for file in files if (wrong := _wrong(folder, file)) is not None]


def _wrong(folder: Path, file: BackupFile) -> str | None:
    path = folder / file.path
    if not path.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
        return "leads out of the backup"
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != file.bytes:
        return f"has {path.stat().st_size} bytes, expected {file.bytes}"
    return None if describe(path, file.path).sha256 == file.sha256 else "was changed"


def plain_files(folder: Path, *, is_complete: bool = False) -> list[Path]:
    """Return all files below a folder, sorted, without links.

    Names with a leading dot (drafts and the trash) are left out, unless `is_complete`: the folder holds none of these.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if is_complete or not name.startswith("."))
        paths = (Path(parent, name) for name in sorted(names) if is_complete or not name.startswith("."))
        found += [path for path in paths if _is_plain(path)]
    return found


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _created(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
