"""How many models, keys and values fit into the memory of a device."""

import ctypes
import os
from pathlib import Path
from typing import Any

import torch

from app.contracts.memory_lease import ENGINE_SHARE
from worker.model_card import count_numbers

# The usual length of an answer with its prompt, when many are answered at once; a longer one uses the place of others.
USUAL_TOKENS = 2048
# The limit for keys and values on a CPU, if the operator has set none.
MOST_CPU_BYTES = 2**30
PAGE = os.sysconf("SC_PAGE_SIZE")
KIB = 1024


class Memory:
    """The memory of a device in bytes, measured at each call."""

    def __init__(self, device: str) -> None:
        self._device = device

    def free(self) -> int:
        """Bytes that this process can still allocate."""
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()  # memory that is still reserved afterwards is in use, by tensors or graphs
            return int(torch.cuda.mem_get_info(self._device)[0])
        return min(_available_on_host(), _room_in_group())

    def held(self) -> int:
        """Bytes that this process uses."""
        if self._device.startswith("cuda"):
            return int(torch.cuda.memory_reserved(self._device))
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _available_on_host() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * KIB


def _room_in_group(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Free bytes of the container, from its own mount of cgroup v2; without a limit, the memory of the host."""
    try:
        most, current = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(0, int(most) - int(current))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return _available_on_host()


def weight_bytes(folder: Path, dtype: Any) -> int:
    """The bytes of a model's weights once they are loaded in this dtype, from the shapes in its files. Never
    too low.
    """
    return count_numbers(folder) * int(dtype.itemsize)


def cache_bound(device: str) -> int | None:
    """The default limit in bytes for the keys and values of all models together.

    Returns None on a GPU: there each model takes a share of the free memory when it is loaded.
    """
    if device.startswith("cuda"):
        return None
    return min(MOST_CPU_BYTES, int(Memory(device).free() * ENGINE_SHARE))


def cache_places(bytes_per_place: int, answers: int, longest: int | None, device: Any, most_bytes: int | None) -> int:
    """The number of tokens that the cache may hold on this device now: at most `answers` usual answers, or one
    `longest`.

    `most_bytes` None: the free memory decides. On a GPU it always decides.
    """
    rooms = [] if most_bytes is None else [most_bytes]
    if device.type == "cuda":
        rooms.append(int(torch.cuda.mem_get_info(device)[0] * ENGINE_SHARE))
    usual = USUAL_TOKENS if longest is None else min(longest, USUAL_TOKENS)
    return min([max(answers * usual, longest or 0), *(room // bytes_per_place for room in rooms)])


def return_freed_memory() -> None:
    """Return freed memory to the system, which the C library would keep for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)
