"""Small tensors on their way to the device, and large ones whose memory is taken as it is used."""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import Any

import torch


def to_device(numbers: Sequence[Any], device: Any, dtype: Any = None) -> Any:
    """A tensor of these numbers. The host does not wait until what the device has to do before is done."""
    tensor = torch.tensor(numbers, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Zeros:
    """A tensor of zeros. On a CPU the system gives it memory page by page, when a page is first written to."""

    def __init__(self, shape: Sequence[int], dtype: Any, device: Any) -> None:
        count = prod(shape)
        self._pages: mmap.mmap | None = None
        if torch.device(device).type != "cpu" or count == 0:
            self.tensor = torch.zeros(tuple(shape), dtype=dtype, device=device)
            return
        self._pages = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel that has no huge pages; with them a first number would take two megabytes
            self._pages.madvise(mmap.MADV_NOHUGEPAGE)
        self.tensor = torch.frombuffer(self._pages, dtype=dtype, count=count).view(tuple(shape))

    def reset(self) -> None:
        """Make all of it zeros again; on a CPU the system has its memory back."""
        if self._pages is None:
            self.tensor.zero_()
        else:
            self._pages.madvise(mmap.MADV_DONTNEED)
