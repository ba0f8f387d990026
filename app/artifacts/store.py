"""Where the files of artifacts are. An artifact is complete in its store, or absent, and it never changes.

A key is what the row holds as `location`. It names one artifact and the hash of its files, so a key never leads to
other content. Two artifacts share no files, so one can be deleted without a look at the others.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from app.artifacts.names import PREFIX
from app.artifacts.schemas import ArtifactFile
from app.config import Settings
from app.hashing import hash_file, hash_of_files
from app.store.copies import HomeFiles
from app.store.faults import EntryChanged, EntryMissing

FOLDER = "artifacts"
OWN_KEY = re.compile(rf"{FOLDER}/{PREFIX}-[a-z0-9-]+/[0-9a-f]{{64}}")
CHUNK_BYTES = 1 << 20
# Hashes of files that are kept in memory; an artifact has some ten files.
MOST_HASHES = 4096


class ArtifactMissing(Exception):
    """The store does not have the artifact, or the files that are to be stored are gone or were changed."""


class ArtifactStore(Protocol):
    """Every method but `put` and `delete` raises ArtifactMissing for a key that it does not have."""

    def put(self, artifact_id: str, folder: Path, sha256: str) -> str:
        """Take over the files of a folder, which has this hash, and return their key. The folder is gone afterwards.

        Safe to repeat after a crash. Raises ArtifactMissing if the folder is gone, or has another hash.
        """

    def files(self, key: str) -> Sequence[ArtifactFile]:
        """Return the files, sorted by name."""

    def open(self, key: str, name: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` up to `end`."""

    def materialise(self, key: str) -> Path:
        """Return a folder of this host with the files. They must not be changed."""

    def delete(self, key: str) -> None:
        """Delete the files that `put` has stored. A key that it does not have any more is no error."""


class LocalStore:
    """Keeps artifacts below the home: `artifacts/<id>/<hash>`.

    A key is a path relative to the home, so the folder of a published adapter is a key too. `locate` returns the
    present path of a stored one (`Settings.locate`).
    """

    def __init__(self, locate: Callable[[str], Path]) -> None:
        self._locate = locate

    def put(self, artifact_id: str, folder: Path, sha256: str) -> str:
        key = f"{FOLDER}/{artifact_id}/{sha256}"
        target = self._locate(key)
        if target.is_dir():
            return key
        if _hash_of(folder) != sha256:
            raise ArtifactMissing(f"the files of {artifact_id} are gone from {folder}, were changed, or are links")
        _flush(folder)
        shutil.rmtree(target.parent, ignore_errors=True)  # of an attempt that was not published
        target.parent.mkdir(parents=True)
        os.rename(folder, target)
        _flush_entries(target.parent)
        return key

    def files(self, key: str) -> Sequence[ArtifactFile]:
        folder = self.materialise(key)
        names = sorted(path.relative_to(folder).as_posix() for path in _plain_files(folder))
        return [_describe(folder, name) for name in names]

    def open(self, key: str, name: str, start: int, end: int) -> Iterator[bytes]:
        with (self.materialise(key) / name).open("rb") as file:
            file.seek(start)
            while start < end and (chunk := file.read(min(CHUNK_BYTES, end - start))):
                start += len(chunk)
                yield chunk

    def materialise(self, key: str) -> Path:
        folder = self._locate(key)
        if not folder.is_dir():
            raise ArtifactMissing(f"the files of {key} are gone")
        return folder

    def delete(self, key: str) -> None:
        if not OWN_KEY.fullmatch(key):
            raise ValueError(f"{key} is no key of this store")
        shutil.rmtree(self._locate(key).parent, ignore_errors=True)


class S3Store:
    """Keeps artifacts in the store that all hosts reach. The home of this host has copies of some.

    Its keys are those of `LocalStore`. What is only in this home, from before there was a store, is read there. Every
    method raises StoreAway while the store cannot be used.
    """

    def __init__(self, locate: Callable[[str], Path], files: HomeFiles) -> None:
        self._locate, self._files, self._local = locate, files, LocalStore(locate)

    def put(self, artifact_id: str, folder: Path, sha256: str) -> str:
        key = f"{FOLDER}/{artifact_id}/{sha256}"
        path = self._locate(key)
        if not (folder.is_dir() or path.is_dir()) and self._files.manifest(path) is not None:
            return key  # another host has stored it
        if not path.is_dir():
            self._local.put(artifact_id, folder, sha256)
            for other in self._files.names(path.parent):
                if other != sha256:  # of an attempt that was not published
                    self._files.forget(path.with_name(other))
        try:
            self._files.keep(path, sha256=sha256)
        except EntryChanged as error:
            raise ArtifactMissing(str(error)) from error
        return key

    def files(self, key: str) -> Sequence[ArtifactFile]:
        manifest = self._files.manifest(self._locate(key))
        if manifest is None:
            return self._local.files(key)
        found = manifest.files
        described = [ArtifactFile(name=file.name, bytes=file.bytes, sha256=file.sha256) for file in found]
        return sorted(described, key=lambda file: file.name)

    def open(self, key: str, name: str, start: int, end: int) -> Iterator[bytes]:
        manifest, entries = self._files.manifest(self._locate(key)), self._files.entries
        if manifest is None or entries is None:
            yield from self._local.open(key, name, start, end)
            return
        try:
            yield from entries.read(key, manifest, name, start, end)
        except EntryMissing as error:
            raise ArtifactMissing(str(error)) from error

    def materialise(self, key: str) -> Path:
        path = self._files.bring(self._locate(key))
        if not path.is_dir():
            raise ArtifactMissing(f"the files of {key} are gone")
        return path

    def delete(self, key: str) -> None:
        self._local.delete(key)
        self._files.forget(self._locate(key).parent)


def store_of(settings: Settings) -> ArtifactStore:
    """Return the store of an installation. Raises StoreAway for keys that boto refuses."""
    return LocalStore(settings.locate) if settings.store is None else S3Store(settings.locate, settings.files)


def _plain_files(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder. Links and pipes are left out: a child may have made them to reach other files."""
    for parent, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(parent, name)).is_file() and not path.is_symlink())


def _hash_of(folder: Path) -> str:
    return hash_of_files({path.relative_to(folder).as_posix(): hash_file(path) for path in _plain_files(folder)})


def _describe(folder: Path, name: str) -> ArtifactFile:
    path = folder / name
    found = path.stat()
    return ArtifactFile(name=name, bytes=found.st_size, sha256=_hash(path, found.st_size, found.st_mtime_ns))


@lru_cache(MOST_HASHES)
def _hash(path: Path, _size: int, _modified: int) -> str:
    """Hash a file once, unless it is replaced: a hash takes as long as reading the file."""
    return hash_file(path)


def _flush(folder: Path) -> None:
    """Write all files of a folder through to the disk."""
    for path in _plain_files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for parent, _, _ in os.walk(folder):
        _flush_entries(Path(parent))


def _flush_entries(folder: Path) -> None:
    entries = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)
