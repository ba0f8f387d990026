"""The checkpoints that a job keeps, on this host or in the store of all hosts.

They are looked for where the files are: the rows of the database follow with a heartbeat.
"""

from pathlib import Path

from app.contracts.checkpoints import MANIFEST, NAME, Manifest, StoredFile, age, by_age, outline
from app.store.copies import HomeFiles
from app.store.entries import EntryManifest


def present(files: HomeFiles, folder: Path) -> list[Path]:
    """Return the paths of all checkpoints of a job's folder, the newest first. Raises StoreAway."""
    try:
        here = by_age(folder)
    except OSError:  # the job is deleted at this moment
        here = []
    stored = {folder / name for name in files.names(folder) if NAME.fullmatch(name)}
    return sorted({*here, *stored}, key=age, reverse=True)


def outline_of(files: HomeFiles, path: Path) -> Manifest | None:
    """Return a checkpoint of this host or of the store, or None if it is incomplete or gone. Raises StoreAway."""
    found = outline(path)
    if found is not None:
        return found
    stored = files.manifest(path)
    return _of_entry(path, stored) if stored is not None and MANIFEST in stored.hashes else None


def sha256_of(found: Manifest) -> dict[str, str]:
    """Return the hashes of all files of a checkpoint, by their names."""
    return {file.path: file.sha256 for file in found.files} | {MANIFEST: found.sha256}


def _of_entry(path: Path, stored: EntryManifest) -> Manifest:
    step, attempt = age(path)
    inner = tuple(
        StoredFile(path=file.name, bytes=file.bytes, sha256=file.sha256)
        for file in stored.files
        if file.name != MANIFEST
    )
    return Manifest(path, step, attempt, stored.bytes, stored.hashes[MANIFEST], inner)
