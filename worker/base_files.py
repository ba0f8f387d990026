"""Computes the revision of a local base model: a hash over the files that its outputs depend on.

These are config.json and the safetensors files that transformers loads. The tokenizer is left out, since each adapter
has its own. A file's hash is cached until its size, times or inode change.
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
from app.hashing import hash_file
from worker.failures import UserError
from worker.model_card import parts_of, read_json

UNREADABLE = (OSError, ValueError, UserError)
# Size, modification time, change time and inode: at least one of them changes when the content does.
Stamp = tuple[int, int, int, int]


class BaseFiles:
    """Computes and caches the revisions of folders. Not thread-safe; processes with the same `cache` share hashes."""

    def __init__(self, cache: Path | None = None) -> None:
        self._folder = cache / "bases" if cache is not None else None
        self._hashes: dict[Path, dict[str, tuple[Stamp, str]]] = {}

    def revision(self, folder: Path) -> str | None:
        """The revision of the model in the folder. Returns None if its config or its weights cannot be read."""
        try:
            return self._revision(folder)
        except UNREADABLE:
            return None

    def _revision(self, folder: Path) -> str:
        cached = self._hashes.get(folder) or self._read(folder)
        found = {name: self._hash(folder / name, cached.get(name)) for name in (CONFIG, *weight_files(folder))}
        if found != self._hashes.get(folder):
            self._hashes[folder] = found
            self._save(folder, found)
        lines = (f"{name}\0{sha256}\0" for name, (_, sha256) in sorted(found.items()))
        return LOCAL_REVISION + hashlib.sha256("".join(lines).encode()).hexdigest()

    def _hash(self, path: Path, cached: tuple[Stamp, str] | None) -> tuple[Stamp, str]:
        """Takes the stamp before reading, so that a file which changes meanwhile is read again next time."""
        stamp = _stamp(path)
        if cached is not None and cached[0] == stamp:
            return cached
        return stamp, hash_file(path)

    def _cache_path(self, folder: Path) -> Path | None:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        return self._folder / f"{name}.json" if self._folder is not None else None

    def _read(self, folder: Path) -> dict[str, tuple[Stamp, str]]:
        path_in_cache = self._cache_path(folder)
        try:
            raw: Mapping[str, Any] = json.loads(path_in_cache.read_text()) if path_in_cache is not None else {}
            return {name: (tuple(stamp), str(sha256)) for name, (stamp, sha256) in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _save(self, folder: Path, found: Mapping[str, tuple[Stamp, str]]) -> None:
        """Errors are ignored: without the cache the files are only hashed again."""
        path_in_cache = self._cache_path(folder)
        if path_in_cache is None:
            return
        draft = path_in_cache.with_suffix(f".{os.getpid()}.tmp")
        with suppress(OSError):
            path_in_cache.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(found))
            draft.replace(path_in_cache)


def weight_files(folder: Path) -> list[str]:
    """The names of the files from which transformers loads the weights, the index among them.

    Only safetensors files count, and a single file has precedence over an index, as in transformers. Raises one of
    UNREADABLE if there are no weights.
    """
    if (folder / ADAPTER_CONFIG).exists():  # libraries would load the base that this file names
        raise ValueError(f"{ADAPTER_CONFIG} is beside the weights")
    if (folder / SINGLE).is_file():
        return [SINGLE]
    return [INDEX, *sorted(set(parts_of(read_json(folder / INDEX)).values()))]


def stamps(folder: Path) -> tuple[tuple[str, Stamp], ...]:
    """The stamps of all files in the folder, sorted by name. They are equal as long as no file has changed."""
    try:
        return tuple(sorted((path.name, _stamp(path)) for path in folder.iterdir() if path.is_file()))
    except OSError:
        return ()


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def own_memory(model: Any, folder: Path) -> None:
    """Copy memory-mapped weights, which some are on a CPU, into memory of this process.

    Otherwise overwriting the file would change the weights, and truncating it would kill the process.
    """
    mapped = _mappings({str(path.resolve()) for path in folder.glob("*.safetensors")})
    for weights in (*model.parameters(), *model.buffers()):
        address = weights.data_ptr() if weights.device.type == "cpu" else 0
        if any(first <= address < last for first, last in mapped):
            weights.data = weights.data.clone()


def _mappings(files: set[str]) -> list[tuple[int, int]]:
    """The address ranges [first, last) at which these files are mapped, from /proc/self/maps (proc_pid_maps(5))."""
    maps = Path("/proc/self/maps")
    lines = [line.split(maxsplit=5) for line in maps.read_text().splitlines()] if maps.exists() else []
    ours = [line[0].split("-") for line in lines if len(line) > 5 and line[5].removesuffix(" (deleted)") in files]
    return [(int(first, 16), int(last, 16)) for first, last in ours]
