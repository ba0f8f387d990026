"""Brings the files of an adapter or a checkpoint to this host, if they are in the store of all hosts.

An order names them by their paths, or, where hosts share no home, by their paths in a home.
"""

from pathlib import Path
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from app.contracts.generation import AdapterRef, GenerateOrder
from app.contracts.probe import ProofOrder
from app.store.copies import HomeFiles, OnlyHome
from app.store.faults import STORE_AWAY, StoreAway
from worker.inference.engine import Refusal
from worker.inference.server.roots import Roots

Order = TypeVar("Order", GenerateOrder, ProofOrder)


class Bundles:
    """The folders that orders name. `files` are those of the home of `roots`."""

    def __init__(self, roots: Roots, files: HomeFiles | None = None) -> None:
        self._roots, self._files = roots, files or OnlyHome()

    async def bring(self, order: Order) -> Order:
        """Return the order with absolute paths, of folders that are on this host if they are anywhere.

        Raises Refusal 403 for a path that the engine may not open, and 503 if the store cannot be used.
        """
        return await run_in_threadpool(self._bring, order)

    def _bring(self, order: Order) -> Order:
        adapter = self._absolute(order.adapter) if order.adapter is not None else None
        self._roots.check(order.base, adapter)
        if adapter is None:
            return order
        try:
            for path in (adapter.path, adapter.language):
                if path is not None:
                    self._files.bring(Path(path))
        except StoreAway as error:
            message = f"the files of {adapter.name} are not on this host, and {error}"
            raise Refusal(503, STORE_AWAY, message, "adapter") from error
        return order.model_copy(update={"adapter": adapter})

    def _absolute(self, adapter: AdapterRef) -> AdapterRef:
        language = adapter.language and str(self._roots.home / adapter.language)
        return adapter.model_copy(update={"path": str(self._roots.home / adapter.path), "language": language})
