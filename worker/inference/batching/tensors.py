"""Copies small tensors to the device without waiting, and allocates large tensors of zeros lazily."""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import Any

import torch


def to_device(numbers: Sequence[Any], device: Any, dtype: Any = None) -> Any:
    """A tensor of these numbers on the device. The host does not wait for earlier work of the device."""
    tensor = torch.tensor(numbers, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Zeros:
    """A tensor of zeros. On a CPU the system allocates a page when it is first written to."""

    def __init__(self, shape: Sequence[int], dtype: Any, device: Any) -> None:
        count = prod(shape)
        self._pages: mmap.mmap | None = None
        if torch.device(device).type != "cpu" or count == 0:
            self.tensor = torch.zeros(tuple(shape), dtype=dtype, device=device)
            return
        self._pages = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # without huge pages in the kernel; with them a first number would take 2 MB
            self._pages.madvise(mmap.MADV_NOHUGEPAGE)
        self.tensor = torch.frombuffer(self._pages, dtype=dtype, count=count).view(tuple(shape))

    def reset(self) -> None:
        """Reset all to zeros. On a CPU the memory is returned to the system."""
        if self._pages is None:
            self.tensor.zero_()
        else:
            self._pages.madvise(mmap.MADV_DONTNEED)
