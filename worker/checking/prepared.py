"""Prepared data is kept by content: the key is a hash over the bytes that were read and all that shapes the rows.

cache/prepared/KEY/    a complete data folder, or none: built beside and renamed
jobs/JOB/data/         the same files as links, so that either may be deleted without the other

A file that was changed in place, with its size and its time kept, has another key.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app import __version__
from app.contracts.spec import JobSpec

# Raised when the same inputs give other rows, or the files in a data folder change.
FORMAT = 4
PARTIAL = ".partial-"
LONGEST_BUILD_SECONDS = 7 * 86_400
# What of a dataset spec decides which rows there are and what is learned of them.
SHAPING = {
    "format", "columns", "dataset_text_field", "eval_fraction", "train_on", "instruction_part", "response_part",
    "on_bad_row", "max_dropped_fraction", "on_long_row",
}  # fmt: skip


@dataclass(frozen=True)
class Ingredients:
    """What rows are made of, beside the spec: sources by their content and name, the tokenizer, the model's number of
    tokens, and the day for templates that write the date."""

    sources: dict[str, str]
    tokenizer_sha256: str
    vocabulary: int | None
    day: str | None


def key_of(spec: JobSpec, ingredients: Ingredients) -> str:
    parts: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        **asdict(ingredients),
        "dataset": spec.dataset.model_dump(mode="json", include=SHAPING),
        "method": spec.training.method,
        "max_seq_length": spec.model.max_seq_length,
        "seed": spec.training.seed if spec.dataset.eval_fraction else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class FolderCache:
    """A folder of finished folders by key. Several processes may use it at once."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    def fetch(self, key: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
        """The folder of a key, and whether it was there already; `build` fills a new one."""
        target = self._root / key
        if target.is_dir():
            os.utime(target)
            return target, True
        self._root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self._root))  # several hosts may share the folder
        try:
            build(partial)
            _sync(partial)
            self._keep(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target, False

    def _keep(self, partial: Path, target: Path) -> None:
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first, with the same content
                raise

    def trim(self, spare: Path) -> None:
        """Remove what was used longest ago until the rest fits, never `spare`; and what killed builds have left."""
        stale = time.time() - LONGEST_BUILD_SECONDS
        found = [path for path in self._root.iterdir() if path.is_dir()]
        for partial in (path for path in found if path.name.startswith(PARTIAL) and _used(path) < stale):
            shutil.rmtree(partial, ignore_errors=True)
        entries = sorted((path for path in found if not path.name.startswith(PARTIAL)), key=_used, reverse=True)
        total = 0
        for entry in entries:
            total += sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
            if total > self._max_bytes and entry != spare:
                shutil.rmtree(entry, ignore_errors=True)


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:  # trimmed by another process
        return 0.0


def _sync(folder: Path) -> None:
    """Through to the disk: a folder with its final name is whole, also after a loss of power."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_folder(source: Path, target: Path) -> None:
    """Make `target` anew with the files of `source`: as links where the file system has them, else as copies."""
    partial = target.with_name(f".partial-{target.name}")
    for folder in (partial, target):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link)
    partial.rename(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
