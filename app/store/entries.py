"""Folders and files in the store. Each is an entry: whole or absent, and replaced at once.

    manifests/<key>.json            an `EntryManifest`, written last: this object makes the entry exist
    content/<key>/<number>/<name>   its files; every time that an entry is stored has a number of its own
    trash/<day>/<key>.json          the manifest of an entry without a row, which is kept for a week
    installation                    the id of the database that the store belongs to

A key is a path below the home, such as `adapters/adapter-…/<version>`.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from app.contracts.stored import Stored, read_json
from app.hashing import hash_of_files
from app.store.faults import Beat, EntryChanged, EntryMissing, ObjectMissing, StoreAway, no_beat

if TYPE_CHECKING:  # it imports boto, which a service without a store need not load
    from app.store.bucket import ObjectBucket

MANIFESTS, CONTENT, TRASH = "manifests", "content", "trash"
KEPT_IN_TRASH = timedelta(days=7)
# No upload takes longer, so older ones, and files without a manifest, were cut off.
CUT_OFF_AFTER = timedelta(days=1)
AT_ONCE = 4


class EntryFile(Stored):
    """One file of an entry. `name` is its path in the entry, with slashes."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str

    @field_validator("name")
    @classmethod
    def _leads_nowhere_else(cls, name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise ValueError("should be a path inside of the entry")
        return name


class EntryManifest(Stored):
    """The content of an entry. `number` names the folder of its files; `is_file`: it is one file and no folder."""

    number: str
    is_file: bool
    files: list[EntryFile]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """As `app.hashing.hash_folder` hashes a folder."""
        return hash_of_files(self.hashes)

    @property
    def hashes(self) -> Mapping[str, str]:
        return {file.name: file.sha256 for file in self.files}


class EntryStore:
    """The entries of one bucket. Every method raises StoreAway while the store cannot be used."""

    def __init__(self, bucket: "ObjectBucket") -> None:
        self.bucket = bucket

    def save(self, key: str, path: Path, sha256: str | None = None, beat: Beat = no_beat) -> EntryManifest:
        """Store a folder or a file, in place of what the key had. `beat` may raise to give up.

        Raises EntryChanged, and leaves the entry as it was, if the files have not the hash `sha256`.
        """
        if path.is_symlink() or not path.exists():
            raise EntryChanged(f"the files of {key} are gone from {path}, or it is a link")
        names = [path.name] if path.is_file() else sorted(_plain_files(path))
        folder = path.parent if path.is_file() else path
        number = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        upload = partial(self._upload, f"{CONTENT}/{key}/{number}", folder, beat)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            files = list(pool.map(upload, names))
        manifest = EntryManifest(number=number, is_file=path.is_file(), files=files)
        if sha256 not in (None, manifest.sha256):
            self._delete_content(key, keep=None, only=number)
            raise EntryChanged(f"the files of {key} are gone from {path}, were changed, or are links")
        beat()
        self.bucket.write(_manifest_name(key), manifest.model_dump_json().encode())
        return manifest

    def _upload(self, content: str, folder: Path, beat: Beat, name: str) -> EntryFile:
        try:
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise EntryChanged(f"{name} cannot be read: {error.strerror}") from error
        with open(descriptor, "rb") as file:
            sent = self.bucket.upload(f"{content}/{name}", file, beat)
        return EntryFile(name=name, bytes=sent.bytes, sha256=sent.sha256)

    def manifest(self, key: str) -> EntryManifest:
        """Raises EntryMissing."""
        try:
            found = read_json(EntryManifest, self.bucket.content(_manifest_name(key)))
        except ObjectMissing:
            found = None
        if found is None:
            raise EntryMissing(f"the store has no {key}")
        return found

    def read(self, key: str, manifest: EntryManifest, name: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` up to `end`. Raises EntryMissing if it was deleted or replaced."""
        size = next((file.bytes for file in manifest.files if file.name == name), 0)
        try:
            yield from self.bucket.read(_content_name(key, manifest, name), start, min(end, size))
        except ObjectMissing:
            raise EntryMissing(f"the store has no {name} of {key}") from None

    def fetch(self, key: str, manifest: EntryManifest, folder: Path, beat: Beat = no_beat) -> None:
        """Write the files of an entry into an empty folder of this host, and compare every byte with its hash.

        Raises EntryMissing.
        """
        for parent in {(folder / file.name).parent for file in manifest.files}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(partial(self._download, key, manifest, folder, beat), manifest.files))

    def _download(self, key: str, manifest: EntryManifest, folder: Path, beat: Beat, file: EntryFile) -> None:
        digest = hashlib.sha256()
        with (folder / file.name).open("xb") as target:
            for chunk in self.read(key, manifest, file.name, 0, file.bytes):
                beat()
                digest.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != file.sha256:
            raise EntryMissing(f"{file.name} of {key} is not in the store as it was stored: its bytes were changed")

    def below(self, prefix: str = "") -> Iterator[tuple[str, datetime]]:
        """Yield the keys that begin with a prefix, and when each was stored."""
        for name, at in self.bucket.names(f"{MANIFESTS}/{prefix}"):
            yield _key_of(name, f"{MANIFESTS}/"), at

    def delete(self, key: str) -> None:
        """Delete an entry. The manifest goes first, so that none is left without its files."""
        self.bucket.delete(_manifest_name(key))
        self._delete_content(key, keep=None)

    def delete_old(self, key: str, manifest: EntryManifest) -> None:
        """Delete the files that the entry had before `manifest`."""
        self._delete_content(key, keep=manifest.number)

    def _delete_content(self, key: str, keep: str | None, only: str | None = None) -> None:
        below = f"{CONTENT}/{key}/" + (f"{only}/" if only is not None else "")
        for name, _ in self.bucket.names(below):
            if keep is None or not name.startswith(f"{CONTENT}/{key}/{keep}/"):
                self.bucket.delete(name)

    def throw(self, key: str, today: date) -> None:
        """Move the manifest of an entry to the trash of a day. Its files stay for a week."""
        with suppress(ObjectMissing):
            found = self.bucket.content(_manifest_name(key))
            self.bucket.write(f"{TRASH}/{today.isoformat()}/{key}.json", found)
            self.bucket.delete(_manifest_name(key))

    def sweep(self, now: datetime) -> list[str]:
        """Empty the trash of more than a week ago, and remove what cut-off uploads left. Returns the keys."""
        with suppress(StoreAway):  # a server may not list uploads
            self.bucket.abort_uploads(now - CUT_OFF_AFTER)
        thrown, last = dict[str, str](), (now - KEPT_IN_TRASH).date().isoformat()
        for name, _ in list(self.bucket.names(f"{TRASH}/")):
            day, _, _ = name.removeprefix(f"{TRASH}/").partition("/")
            thrown[_key_of(name, f"{TRASH}/{day}/")] = name
        live = {key for key, _ in self.below()}
        old = [key for key, name in thrown.items() if name < f"{TRASH}/{last}"]
        for key in old:
            self.bucket.delete(thrown[key])
        return old + self._sweep_content(live | (thrown.keys() - set(old)), now - CUT_OFF_AFTER)

    def _sweep_content(self, known: set[str], before: datetime) -> list[str]:
        """Delete files of unknown keys, and those of a known key with more than one number that it does not have."""
        numbers = dict[str, dict[str, list[str]]]()
        for name, at in list(self.bucket.names(f"{CONTENT}/")):
            key, number = _place_of_content(name)
            if at < before:
                numbers.setdefault(key, {}).setdefault(number, []).append(name)
        for key, stored in numbers.items():
            kept = self._number_of(key) if key in known and len(stored) > 1 else None
            for number, names in stored.items():
                if key not in known or kept not in (None, number):
                    for name in names:
                        self.bucket.delete(name)
        return [key for key in numbers if key not in known]

    def _number_of(self, key: str) -> str | None:
        try:
            return self.manifest(key).number
        except EntryMissing:
            return None


def now() -> datetime:
    return datetime.now(UTC)


def _plain_files(folder: Path) -> Iterator[str]:
    """Yield the names of all files. Links and pipes are left out: a child may have made them to reach other files."""
    for parent, _, names in os.walk(folder):
        paths = (Path(parent, name) for name in names)
        yield from (p.relative_to(folder).as_posix() for p in paths if p.is_file() and not p.is_symlink())


def _manifest_name(key: str) -> str:
    return f"{MANIFESTS}/{key}.json"


def _key_of(name: str, folder: str) -> str:
    return name.removeprefix(folder).removesuffix(".json")


def _content_name(key: str, manifest: EntryManifest, name: str) -> str:
    return f"{CONTENT}/{key}/{manifest.number}/{name}"


def _place_of_content(name: str) -> tuple[str, str]:
    """Return key and number of a file. A number has a form that no part of a key has."""
    parts = name.split("/")
    place = next((n for n, part in enumerate(parts) if len(part) == 29 and part[:20].isdecimal()), len(parts) - 1)
    return "/".join(parts[1:place]), parts[place]
