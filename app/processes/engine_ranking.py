"""The order in which the engines of a service are asked for a model, the same in every process.

An engine loads a base in tens of seconds and an adapter in tenths of one, so all adapters of a base are asked of one
engine, as long as it answers. A model whose weights were all trained is loaded on its own, and is ranked on its own.
"""

import hashlib
from collections.abc import Iterable

from app.contracts.generation import AdapterRef
from app.contracts.order import BaseRef


def ranking_key(base: BaseRef, adapter: AdapterRef | None) -> str:
    """Return what has to be loaded as a whole."""
    return adapter.name if adapter is not None and adapter.kind == "full" else base.source


def ranked(names: Iterable[str], key: str) -> list[str]:
    """Sort engines by rendezvous hashing: one that leaves moves only its own keys, each to the next in its ranking.

    Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{name}\n{key}".encode()).digest())
