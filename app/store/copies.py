"""The copies of entries in the home of a host. A home is a cache of the store: what is old is removed first.

    store/<key>.json     the manifest of an entry that is both here and in the store; its time is that of the last use
    <key>                the copy, complete or absent

Without a store nothing is copied: the home has all there is.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from app.contracts.stored import read_json
from app.processes.lock import CannotStart, hold_lock
from app.store.entries import EntryManifest, EntryStore
from app.store.faults import Beat, EntryMissing, StoreAway, no_beat
from app.store.place import StorePlace

MARKS = "store"
FETCHING, OLD = ".fetching-", ".old-"
# What was used within this time may be in use, so it stays, even if the cache is too large.
IN_USE_SECONDS = 3600.0
# Another process of this host may be fetching the same entry.
LOCK_SECONDS = 1800.0


class HomeFiles(Protocol):
    """Entries by their paths in the home of this host. Methods that ask the store raise StoreAway."""

    @property
    def entries(self) -> EntryStore | None:
        """The store, or None if there is none."""

    def bring(self, path: Path, *, is_replaced: bool = False, beat: Beat = no_beat) -> Path:
        """Return the path, with its entry fetched if it is not on this host. Without an entry, nothing is there.

        `is_replaced`: an entry of this key may be stored again, so the copy is compared with the store.
        """

    def keep(self, path: Path, *, sha256: str | None = None, source: Path | None = None, beat: Beat = no_beat) -> None:
        """Store what is at the path, unless this host has stored or fetched it. `source`: store this, replacing it.

        Raises EntryChanged if its files have not the hash `sha256`.
        """

    def forget(self, path: Path) -> None:
        """Delete the entry of a path, and all entries below it, from the store. What cannot be deleted is swept."""

    def manifest(self, path: Path) -> EntryManifest | None:
        """Return the manifest in the store, or None without an entry."""

    def names(self, folder: Path) -> list[str]:
        """Return the names of the entries directly below a folder."""

    def text(self, path: Path, name: str) -> bytes:
        """Return a small file of an entry, without fetching the others. Raises FileNotFoundError."""

    def evict(self) -> list[Path]:
        """Remove copies, the least recently used first, until all fit. Returns their paths."""

    def touch(self, folder: Path) -> None:
        """Keep all copies at and below a folder in the cache, as they are in use."""


class OnlyHome:
    """The `HomeFiles` of a service without a store."""

    entries: EntryStore | None = None

    def bring(self, path: Path, *, is_replaced: bool = False, beat: Beat = no_beat) -> Path:  # noqa: ARG002
        return path

    def keep(self, path: Path, *, sha256: str | None = None, source: Path | None = None, beat: Beat = no_beat) -> None:
        pass

    def forget(self, path: Path) -> None:
        pass

    def manifest(self, path: Path) -> EntryManifest | None:  # noqa: ARG002
        return None

    def names(self, folder: Path) -> list[str]:  # noqa: ARG002
        return []

    def text(self, path: Path, name: str) -> bytes:
        return (path / name).read_bytes()

    def evict(self) -> list[Path]:
        return []

    def touch(self, folder: Path) -> None:
        pass


class CachedHome:
    """The `HomeFiles` of a host whose home is a cache of a store."""

    def __init__(self, home: Path, store: EntryStore, most_bytes: int) -> None:
        self._home, self._store, self._most_bytes = home, store, most_bytes

    @property
    def entries(self) -> EntryStore | None:
        return self._store

    def bring(self, path: Path, *, is_replaced: bool = False, beat: Beat = no_beat) -> Path:
        known = self._known(path)
        if path.exists() and not is_replaced:
            if known is not None:
                self._use(path)
            return path
        with suppress(EntryMissing):
            manifest = self._store.manifest(self._key(path))
            if not (path.exists() and known is not None and known.number == manifest.number):
                self._fetch(path, manifest, beat)
            self._use(path)
        return path

    def _fetch(self, path: Path, manifest: EntryManifest, beat: Beat) -> None:
        """Raises EntryMissing if it was deleted, or differs from its manifest."""
        with self._locked(path, beat):
            known = self._known(path)
            if path.exists() and known is not None and known.number == manifest.number:
                return  # another process has fetched it
            draft = path.with_name(FETCHING + path.name)
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                self._store.fetch(self._key(path), manifest, draft, beat)
                self._place(draft / manifest.files[0].name if manifest.is_file else draft, path)
                self._mark(path, manifest)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        self.evict()

    def _place(self, made: Path, path: Path) -> None:
        """Put a copy in its place, and an older one away."""
        old = path.with_name(OLD + path.name)
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            path.rename(old)
        made.rename(path)
        _remove(old)

    def keep(self, path: Path, *, sha256: str | None = None, source: Path | None = None, beat: Beat = no_beat) -> None:
        if source is None and self._known(path) is not None:
            return
        manifest = self._store.save(self._key(path), source or path, sha256, beat)
        if source is None or source == path:
            self._mark(path, manifest)
        if source is not None:
            self._store.delete_old(self._key(path), manifest)

    def forget(self, path: Path) -> None:
        with suppress(StoreAway):
            inner = [key for key, _ in self._store.below(f"{self._key(path)}/")]
            for key in (self._key(path), *inner):
                self._store.delete(key)
        _remove(self._home / MARKS / self._key(path))
        self._mark_of(path).unlink(missing_ok=True)

    def manifest(self, path: Path) -> EntryManifest | None:
        try:
            return self._store.manifest(self._key(path))
        except EntryMissing:
            return None

    def names(self, folder: Path) -> list[str]:
        below = f"{self._key(folder)}/"
        return [name for key, _ in self._store.below(below) if "/" not in (name := key.removeprefix(below))]

    def text(self, path: Path, name: str) -> bytes:
        if path.exists():
            return (path / name).read_bytes()
        manifest = self.manifest(path)
        file = next((file for file in manifest.files if file.name == name), None) if manifest is not None else None
        if manifest is None or file is None:
            raise FileNotFoundError(str(path / name))
        return b"".join(self._store.read(self._key(path), manifest, name, 0, file.bytes))

    def touch(self, folder: Path) -> None:
        now = time.time()
        for mark in (self._mark_of(folder), *(self._home / MARKS / self._key(folder)).rglob("*.json")):
            with suppress(FileNotFoundError):
                os.utime(mark, (now, now))

    def evict(self, unused_seconds: float = IN_USE_SECONDS) -> list[Path]:
        """Remove copies, the least recently used first, until all of them fit. Returns their paths."""
        found = sorted(self._marked())
        total, before, removed = sum(size for _, size, _ in found), time.time() - unused_seconds, list[Path]()
        for used_at, size, mark in found:
            if total <= self._most_bytes or used_at > before:
                break
            path = self._home / mark.relative_to(self._home / MARKS).with_suffix("")
            mark.unlink(missing_ok=True)  # first: what has no mark is no copy that may be used unseen
            _remove(path)
            total -= size
            removed.append(path)
        return removed

    def _marked(self) -> Iterator[tuple[float, int, Path]]:
        """Yield the time of the last use, the size and the mark of each copy."""
        for mark in (self._home / MARKS).rglob("*.json"):
            with suppress(FileNotFoundError):
                known = read_json(EntryManifest, mark.read_bytes())
                yield mark.stat().st_mtime, known.bytes if known is not None else 0, mark

    def _key(self, path: Path) -> str:
        return path.relative_to(self._home).as_posix()

    def _mark_of(self, path: Path) -> Path:
        return self._home / MARKS / f"{self._key(path)}.json"

    def _known(self, path: Path) -> EntryManifest | None:
        try:
            return read_json(EntryManifest, self._mark_of(path).read_bytes())
        except FileNotFoundError:
            return None

    def _mark(self, path: Path, manifest: EntryManifest) -> None:
        mark = self._mark_of(path)
        mark.parent.mkdir(parents=True, exist_ok=True)
        draft = mark.with_name(f".{mark.name}-{os.getpid()}-{time.monotonic_ns()}")
        draft.write_text(manifest.model_dump_json())
        draft.replace(mark)

    def _use(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            os.utime(self._mark_of(path))

    @contextmanager
    def _locked(self, path: Path, beat: Beat) -> Iterator[None]:
        """One process of this host fetches an entry, others wait for it. Raises StoreAway if that takes too long."""
        locks = self._home / MARKS / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = locks / hashlib.sha256(self._key(path).encode()).hexdigest()[:32]
        deadline = time.monotonic() + LOCK_SECONDS
        with ExitStack() as held:
            while True:
                beat()
                try:
                    held.enter_context(hold_lock(lock, "another process fetches it", wait_seconds=1.0))
                    break
                except CannotStart:
                    if time.monotonic() >= deadline:
                        raise StoreAway(f"another process has been fetching {path} for too long") from None
            yield


def home_files(home: Path, place: StorePlace | None, most_bytes: int) -> HomeFiles:
    """Return the files of a home, which is a cache if there is a store. Raises StoreAway for keys that boto refuses."""
    if place is None:
        return OnlyHome()
    from app.store.bucket import bucket_of  # it imports boto, which takes a tenth of a second

    return CachedHome(home, EntryStore(bucket_of(place)), most_bytes)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
