"""The bytes of an upload on disk: complete or absent, hashed and counted on their way."""

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.errors import Problem, TooLarge

CHUNK_BYTES = 2**20
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Received:
    bytes: int
    sha256: str


def partial_path(target: Path) -> Path:
    """Where the bytes of a file are while they are received and checked."""
    return target.with_name(f"{PARTIAL}{target.name}")


def sweep_partials(folder: Path, older_than_seconds: float) -> int:
    """Remove what killed uploads left, and say how many. One that is younger may still be received or checked."""
    removed, before = 0, time.time() - older_than_seconds
    for partial in folder.glob(f"{PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):  # ended, or swept by another process
            if partial.stat().st_mtime < before:
                partial.unlink()
                removed += 1
    return removed


def receive(content: BinaryIO, partial: Path, max_bytes: int) -> Received:
    """Write the content to a file that did not exist, through to the disk. Raises TooLarge at the first byte over."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    size, digest = 0, hashlib.sha256()
    with partial.open("xb") as out:
        while chunk := content.read(CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return Received(size, digest.hexdigest())


def keep(partial: Path, target: Path) -> None:
    """Give a received file its final name, so that it survives a loss of power from here on."""
    partial.rename(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _too_large(limit: int) -> TooLarge:
    problem = Problem(
        field="file", code="too_large", found=f"more than {limit} bytes", expected=f"at most {limit} bytes"
    )
    return TooLarge(f"file: found more than {limit} bytes, expected at most {limit}", param="file", details=[problem])
