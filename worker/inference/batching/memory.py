"""What fits into the memory of a device: models, and beside one that is loaded its tokens' keys and values."""

import ctypes
import os
from pathlib import Path
from typing import Any

import torch

from app.contracts.memory_lease import ENGINE_SHARE
from worker.model_card import count_numbers

# Of an answer, prompt and all, when many are answered at once; a longer one takes the place of others.
USUAL_TOKENS = 2048
# Of keys and values on a CPU, where the operator has named no other number.
MOST_CPU_BYTES = 2**30
PAGE = os.sysconf("SC_PAGE_SIZE")
KIB = 1024


class Memory:
    """Bytes of a device, measured when they are asked for."""

    def __init__(self, device: str) -> None:
        self._device = device

    def free(self) -> int:
        """What more this process could have."""
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()  # what is reserved then is held: by tensors, or by graphs for their own
            return int(torch.cuda.mem_get_info(self._device)[0])
        return min(_available_on_host(), _room_in_group())

    def held(self) -> int:
        """What this process has."""
        if self._device.startswith("cuda"):
            return int(torch.cuda.memory_reserved(self._device))
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _available_on_host() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * KIB


def _room_in_group(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Of the container, by its own mount of cgroup v2; what the host has where there is no limit."""
    try:
        most, current = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(0, int(most) - int(current))
    except (OSError, ValueError):  # another cgroup, or "max"
        return _available_on_host()


def weight_bytes(folder: Path, dtype: Any) -> int:
    """Of a model's weights once they are loaded in this type, by the shapes in its files; never too few."""
    return count_numbers(folder) * int(dtype.itemsize)


def cache_bound(device: str) -> int | None:
    """The bytes of keys and values of all models together where the operator has named no number.

    None on a GPU: there each model takes its share of what is free when it is loaded.
    """
    if device.startswith("cuda"):
        return None
    return min(MOST_CPU_BYTES, int(Memory(device).free() * ENGINE_SHARE))


def cache_places(bytes_per_place: int, answers: int, longest: int | None, device: Any, most_bytes: int | None) -> int:
    """Tokens that the cache may hold on this device now: at most those of so many usual answers, or of one longest.

    `most_bytes` None: what is free decides. On a GPU it decides in any case.
    """
    rooms = [] if most_bytes is None else [most_bytes]
    if device.type == "cuda":
        rooms.append(int(torch.cuda.mem_get_info(device)[0] * ENGINE_SHARE))
    usual = USUAL_TOKENS if longest is None else min(longest, USUAL_TOKENS)
    return min([max(answers * usual, longest or 0), *(room // bytes_per_place for room in rooms)])


def return_freed_memory() -> None:
    """Give the system what this process has freed: the C library keeps it for later otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others do not
    if trim is not None:
        trim(0)
