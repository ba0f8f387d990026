"""A job's checkpoints on disk. Each is complete or absent, at whatever moment a process or the host dies.

    <folder>/step-00000120-attempt-2/     complete: `app.contracts.checkpoints`
    <folder>/.draft-step-…                being written
    <folder>/.removed-step-…              being deleted

The trainer writes checkpoints and the worker chooses the one to resume from, so this module must not import torch.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.contracts.checkpoints import (
    MANIFEST,
    Manifest,
    StoredFile,
    Written,
    age,
    by_age,
    files_of,
    folder_name,
    manifest_of,
    outline,
)
from app.disk_faults import NO_ROOM
from app.hashing import hash_file
from worker.failures import SystemFault

DRAFT, REMOVED = ".draft-", ".removed-"
# The size of the test file that shows whether the disk is full: libraries that write in C++ lose the error's number.
PROBE_BYTES = 1 << 20

log = logging.getLogger(__name__)


class DiskFullFault(SystemFault):
    """The disk is full. Nothing of the unfinished write is left, and older checkpoints are unchanged."""

    def __init__(self, message: str) -> None:
        super().__init__("disk_full", message, hint="free space in TUNESMITH_HOME; the job resumes where it was saved")


@dataclass(frozen=True)
class Removed:
    """A checkpoint that was removed, and the path that it had."""

    path: Path
    step: int
    attempt: int


@dataclass(frozen=True)
class NewestCheckpoint:
    """The newest intact checkpoint and the damaged ones that are newer. If there is none, `step` is 0, `path` None."""

    step: int
    path: Path | None
    skipped: tuple[Path, ...]


@contextmanager
def drafting(folder: Path, *, step: int, attempt: int) -> Iterator[Path]:
    """Yield an empty folder for writing a checkpoint, to be passed to `publish`. It never outlives the block.

    Raises DiskFullFault if writing fails because the disk is full.
    """
    with noticing_a_full_disk(folder, step):
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{DRAFT}{folder_name(step, attempt)}-{time.monotonic_ns()}"
        draft.mkdir()
        try:
            with noticing_a_full_disk(draft, step):
                yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, folder: Path, *, step: int, attempt: int) -> Manifest:
    """Turn a draft, which must be on the same file system, into a checkpoint of the folder.

    Raises DiskFullFault, and deletes the draft, if there is no room for the manifest. Raises OSError for other faults.
    """
    target = folder / folder_name(step, attempt)
    try:
        with noticing_a_full_disk(draft, step):
            files = [_stored(path, draft) for path in files_of(draft)]
            written = Written(step=step, attempt=attempt, files=files)
            text = written.model_dump_json(indent=1).encode()
            _write(draft / MANIFEST, text)
            for inner in (path for path in draft.rglob("*") if path.is_dir()):
                _sync(inner)
            _sync(draft)
            draft.rename(target)
            _sync(folder)
    except DiskFullFault:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest_of(target, text, written)


def verify(path: Path) -> Manifest | None:
    """Compare every byte of a checkpoint with its manifest. Returns None if a file is missing, changed or added."""
    found = outline(path)
    if found is None:
        return None
    try:
        is_whole = all(hash_file(path / file.path) == file.sha256 for file in found.files)
    except OSError:
        return None
    return found if is_whole else None


def newest(folder: Path) -> NewestCheckpoint:
    """Find the newest checkpoint, by step and then by attempt, that passes `verify`."""
    skipped: list[Path] = []
    for path in by_age(folder):
        found = verify(path)
        if found is not None:
            return NewestCheckpoint(found.step, path, tuple(skipped))
        log.warning("skipped the checkpoint %s: it differs from its manifest", path)
        skipped.append(path)
    return NewestCheckpoint(0, None, tuple(skipped))


def of_step(folder: Path, step: int) -> Path | None:
    """Find the newest complete checkpoint of a step. Its bytes are not compared."""
    return next((path for path in by_age(folder) if age(path)[0] == step and outline(path) is not None), None)


def intact_of_step(folder: Path, step: int) -> Path | None:
    """As `of_step`, but the checkpoint has to pass `verify`."""
    path = of_step(folder, step)
    return path if path is not None and verify(path) is not None else None


def prune(folder: Path, keep: int, best_step: int | None = None) -> list[Removed]:
    """Remove all checkpoints but the newest `keep` and that of the best step; an incomplete one goes too."""
    complete = [path for path in by_age(folder) if outline(path) is not None]
    kept = {*complete[:keep], None if best_step is None else of_step(folder, best_step)}
    return [_remove(path) for path in by_age(folder) if path not in kept]


def sweep(folder: Path) -> None:
    """Remove what dead attempts had begun to write or to delete. No trainer of this job may be running."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        if path.name.startswith((DRAFT, REMOVED)):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def noticing_a_full_disk(folder: Path, step: int | None = None) -> Iterator[None]:
    """Replace any error that a library raises because of a full disk by DiskFullFault.

    `folder`: where the block writes.
    """
    try:
        yield
    except DiskFullFault:
        raise
    except Exception as error:
        if not _is_full(error, folder):
            raise
        what = "these files" if step is None else f"a checkpoint of step {step}"
        raise DiskFullFault(f"the disk has no room for {what}") from error


def _is_full(error: BaseException, folder: Path) -> bool:
    """Decides by the error's number; torch and safetensors raise errors without one, so then by writing a test file."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno in NO_ROOM
        cause = cause.__cause__ or cause.__context__
    probe = folder / ".probe"
    try:
        _write(probe, b"\0" * PROBE_BYTES)
    except OSError as found:
        return found.errno in NO_ROOM
    finally:
        with suppress(OSError):
            probe.unlink()
    return False


def _remove(path: Path) -> Removed:
    """Renames before deleting, so that an interrupted delete leaves nothing that looks like a complete checkpoint."""
    step, attempt = age(path)
    aside = path.with_name(REMOVED + path.name)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    _sync(path.parent)
    shutil.rmtree(aside)
    return Removed(path, step, attempt)


def _stored(path: Path, folder: Path) -> StoredFile:
    _sync(path)
    return StoredFile(path=str(path.relative_to(folder)), bytes=path.stat().st_size, sha256=hash_file(path))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
