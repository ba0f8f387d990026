"""How many tokens' keys and values fit beside a model that is loaded."""

import os
from typing import Any

import torch

from app.contracts.yielding import ENGINE_SHARE

# Of an answer, prompt and all, when many are answered at once; a longer one takes the place of others.
USUAL_TOKENS = 2048
MOST_CPU_BYTES = 4 * 2**30


def cache_places(bytes_per_place: int, answers: int, longest: int | None, device: Any) -> int:
    """Tokens that the cache may hold on this device now: at most those of so many usual answers, or of one longest."""
    if device.type == "cuda":
        room = int(torch.cuda.mem_get_info(device)[0] * ENGINE_SHARE)
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        room = min(int(free * ENGINE_SHARE), MOST_CPU_BYTES)
    usual = USUAL_TOKENS if longest is None else min(longest, USUAL_TOKENS)
    return min(max(answers * usual, longest or 0), room // bytes_per_place)
