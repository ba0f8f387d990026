"""Small tensors on their way to the device."""

from collections.abc import Sequence
from typing import Any

import torch


def to_device(numbers: Sequence[Any], device: Any, dtype: Any = None) -> Any:
    """A tensor of these numbers. The host does not wait until what the device has to do before is done."""
    tensor = torch.tensor(numbers, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
