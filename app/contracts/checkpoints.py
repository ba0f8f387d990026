"""The form of a job's checkpoints on disk. The trainer writes them, and the engine can serve them.

    <folder>/step-00000120-attempt-2/     complete: every file is named in manifest.json with its size and sha256

A folder of that name never changes, and it is always complete.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from app.contracts.base import Contract
from app.contracts.stored import read_json

MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{8,})-attempt-(\d+)")
VERSION_DIGITS = 16
# The engine's error code for a checkpoint that is gone, or differs from its manifest.
CHECKPOINT_GONE = "checkpoint_gone"


class StoredFile(Contract):
    """One file of a checkpoint. The path is relative to its folder."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str


class Written(Contract):
    """manifest.json."""

    step: int = Field(ge=0)
    attempt: int = Field(ge=0)
    files: list[StoredFile]


@dataclass(frozen=True)
class Manifest:
    """A complete checkpoint. `bytes` is the size of all its files with the manifest; `sha256` is of the manifest."""

    path: Path
    step: int
    attempt: int
    bytes: int
    sha256: str
    files: tuple[StoredFile, ...]

    @property
    def version(self) -> str:
        """The version of the checkpoint's content. It differs from that of the same step in another attempt."""
        return f"step-{self.step}-{self.sha256[:VERSION_DIGITS]}"


def folder_name(step: int, attempt: int) -> str:
    return f"step-{step:08d}-attempt-{attempt}"


def by_age(folder: Path) -> list[Path]:
    """Return all paths with a checkpoint's name, the newest first: by step, then by attempt."""
    paths = folder.iterdir() if folder.is_dir() else iter(())
    return sorted((path for path in paths if NAME.fullmatch(path.name)), key=age, reverse=True)


def age(path: Path) -> tuple[int, int]:
    """Return the step and the attempt of a checkpoint's folder."""
    named = NAME.fullmatch(path.name)
    assert named is not None
    return int(named[1]), int(named[2])


def outline(path: Path) -> Manifest | None:
    """Return the checkpoint, or None if it is incomplete. Only names and sizes are compared, so damaged bytes pass."""
    named = NAME.fullmatch(path.name)
    try:
        text = (path / MANIFEST).read_bytes()
        written = read_json(Written, text)
        present = {str(file.relative_to(path)): file.stat().st_size for file in files_of(path) if file.name != MANIFEST}
    except OSError:
        return None
    if written is None:
        return None
    is_itself = named is not None and (written.step, written.attempt) == (int(named[1]), int(named[2]))
    if not is_itself or present != {file.path: file.bytes for file in written.files}:
        return None
    return manifest_of(path, text, written)


def manifest_of(path: Path, text: bytes, written: Written) -> Manifest:
    """Return the manifest of a checkpoint. `text` is manifest.json and `written` is its parsed content."""
    total = len(text) + sum(file.bytes for file in written.files)
    digest = hashlib.sha256(text).hexdigest()
    return Manifest(path, written.step, written.attempt, total, digest, tuple(written.files))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())
