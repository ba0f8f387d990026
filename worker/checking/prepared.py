"""A cache of prepared data. The key is a hash of the source bytes and of all settings that determine the rows.

cache/prepared/KEY/    a complete data folder: it is built under another name and then renamed
jobs/JOB/data/         hard links to the same files, so that either folder may be deleted

The key depends on content, so a file that was changed in place, with the same size and time, has another key.
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

# Increase it when the same inputs give other rows, or when the files in a data folder change.
FORMAT = 4
PARTIAL = ".partial-"
LONGEST_BUILD_SECONDS = 7 * 86_400
# The fields of a dataset spec that determine the rows and their labels.
SHAPING = {
    "format", "columns", "dataset_text_field", "eval_fraction", "train_on", "instruction_part", "response_part",
    "on_bad_row", "max_dropped_fraction", "on_long_row",
}  # fmt: skip


@dataclass(frozen=True)
class RowInputs:
    """What determines the rows beside the spec. `sources` has the key of each source; `vocabulary` is the model's
    number of tokens; `day` is set for templates that write the date."""

    sources: dict[str, str]
    tokenizer_sha256: str
    vocabulary: int | None
    day: str | None


def key_of(spec: JobSpec, inputs: RowInputs) -> str:
    parts: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        **asdict(inputs),
        "dataset": spec.dataset.model_dump(mode="json", include=SHAPING),
        "method": spec.training.method,
        "max_seq_length": spec.model.max_seq_length,
        "seed": spec.training.seed if spec.dataset.eval_fraction else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class FolderCache:
    """Stores complete folders by key. Several processes may use it at once."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    def fetch(self, key: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
        """Returns the folder of a key, and whether it existed already. `build` fills a new folder."""
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

    def trim(self, retained: Path) -> None:
        """Removes old partial folders, and the least recently used folders above the size limit, but not `retained`."""
        stale = time.time() - LONGEST_BUILD_SECONDS
        found = [path for path in self._root.iterdir() if path.is_dir()]
        for partial in (path for path in found if path.name.startswith(PARTIAL) and _used(path) < stale):
            shutil.rmtree(partial, ignore_errors=True)
        entries = sorted((path for path in found if not path.name.startswith(PARTIAL)), key=_used, reverse=True)
        total = 0
        for entry in entries:
            total += sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
            if total > self._max_bytes and entry != retained:
                shutil.rmtree(entry, ignore_errors=True)


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:  # removed by another process
        return 0.0


def _sync(folder: Path) -> None:
    """Flushes a folder to disk, so that a folder with its final name is complete even after a power failure."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_folder(source: Path, target: Path) -> None:
    """Replaces `target` by the files of `source`: hard links if the file system supports them, else copies."""
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
