"""The hash that identifies an adapter's tensors, on whatever device they are."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


def digest_of(tensors: Mapping[str, Any]) -> str:
    """The hexadecimal SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
