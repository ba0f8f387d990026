"""Which weights a base model on this host has: its revision is a hash over the files that its numbers depend on.

Those are the weights that transformers loads, in safetensors form, and config.json. The tokenizer is none of them: an
adapter has its own. A file is read once and its hash kept, as long as its size, its times and its inode stand.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.contracts.model_card import ADAPTER_CONFIG, CONFIG, INDEX, SINGLE
from app.contracts.order import LOCAL_REVISION
from worker.failures import UserError
from worker.hashing import hash_file
from worker.model_card import parts_of, read_json

UNREADABLE = (OSError, ValueError, UserError)
# What of a file's status changes when its content does.
Stamp = tuple[int, int, int, int]


class BaseFiles:
    """Knows the revisions of folders. For one caller at a time; processes with the same `cache` share what was read."""

    def __init__(self, cache: Path | None = None) -> None:
        self._folder = cache / "bases" if cache is not None else None
        self._hashes: dict[Path, dict[str, tuple[Stamp, str]]] = {}

    def revision(self, folder: Path) -> str | None:
        """The revision of the model in the folder; None where its config or its weights are not there to be read."""
        try:
            return self._revision(folder)
        except UNREADABLE:
            return None

    def _revision(self, folder: Path) -> str:
        kept = self._hashes.get(folder) or self._read(folder)
        found = {name: self._hash(folder / name, kept.get(name)) for name in (CONFIG, *weight_files(folder))}
        if found != self._hashes.get(folder):
            self._hashes[folder] = found
            self._keep(folder, found)
        lines = (f"{name}\0{sha256}\0" for name, (_, sha256) in sorted(found.items()))
        return LOCAL_REVISION + hashlib.sha256("".join(lines).encode()).hexdigest()

    def _hash(self, path: Path, kept: tuple[Stamp, str] | None) -> tuple[Stamp, str]:
        """The stamp is taken first: a file that changes while it is read is read again at the next look."""
        stamp = _stamp(path)
        if kept is not None and kept[0] == stamp:
            return kept
        return stamp, hash_file(path)

    def _place(self, folder: Path) -> Path | None:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        return self._folder / f"{name}.json" if self._folder is not None else None

    def _read(self, folder: Path) -> dict[str, tuple[Stamp, str]]:
        place = self._place(folder)
        try:
            raw: Mapping[str, Any] = json.loads(place.read_text()) if place is not None else {}
            return {name: (tuple(stamp), str(sha256)) for name, (stamp, sha256) in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _keep(self, folder: Path, found: Mapping[str, tuple[Stamp, str]]) -> None:
        """A cache that cannot be written costs time and nothing else."""
        place = self._place(folder)
        if place is None:
            return
        draft = place.with_suffix(f".{os.getpid()}.tmp")
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(found))
            draft.replace(place)


def weight_files(folder: Path) -> list[str]:
    """Names of the files that transformers loads the weights from. Raises UNREADABLE where there are none.

    Only safetensors count; a single file goes before an index, as in transformers.
    """
    if (folder / ADAPTER_CONFIG).exists():  # libraries would load the base that it names
        raise ValueError(f"{ADAPTER_CONFIG} is beside the weights")
    if (folder / SINGLE).is_file():
        return [SINGLE]
    return [INDEX, *sorted(set(parts_of(read_json(folder / INDEX)).values()))]


def stamps(folder: Path) -> tuple[tuple[str, Stamp], ...]:
    """Of all files in the folder, sorted by name: it stays the same for as long as none of them changes."""
    try:
        return tuple(sorted((path.name, _stamp(path)) for path in folder.iterdir() if path.is_file()))
    except OSError:
        return ()


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def own_memory(model: Any, folder: Path) -> None:
    """Copy the weights that are a view of their file, as some are on a CPU, into memory of this process.

    A file that is overwritten in place would change such weights, and one that is cut short would kill the process.
    """
    mapped = _mappings({str(path.resolve()) for path in folder.glob("*.safetensors")})
    for weights in (*model.parameters(), *model.buffers()):
        address = weights.data_ptr() if weights.device.type == "cpu" else 0
        if any(first <= address < last for first, last in mapped):
            weights.data = weights.data.clone()


def _mappings(files: set[str]) -> list[tuple[int, int]]:
    """Where these files lie in this process's memory, by Linux's own list (proc_pid_maps(5))."""
    maps = Path("/proc/self/maps")
    lines = [line.split(maxsplit=5) for line in maps.read_text().splitlines()] if maps.exists() else []
    ours = [line[0].split("-") for line in lines if len(line) > 5 and line[5].removesuffix(" (deleted)") in files]
    return [(int(first, 16), int(last, 16)) for first, last in ours]
