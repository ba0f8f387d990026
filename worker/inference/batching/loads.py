"""Reads adapters from disk on a separate thread, while the engine answers."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from worker.inference.batching.loading import AdapterCache, AdapterReader
from worker.inference.batching.lora import LoraWeights
from worker.inference.engine import AdapterFolder
from worker.inference.server.waiting import Ticket


@dataclass(frozen=True)
class LoadResult:
    """A ticket whose adapter was read, or could not be read."""

    ticket: Ticket
    weights: LoraWeights | None
    error: Exception | None = None


class AdapterLoader:
    """Tickets that wait for an adapter. An adapter is read once for all of them."""

    def __init__(self, reader: AdapterReader, cache: AdapterCache, on_news: Callable[[], None]) -> None:
        self._reader = reader
        self._on_news = on_news
        self._cache = cache
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="adapters")
        self._reads: dict[AdapterFolder, Future[LoraWeights]] = {}
        self._tickets: list[tuple[Ticket, AdapterFolder]] = []

    def find(self, adapter: AdapterFolder) -> LoraWeights | None:
        """The adapter, if it is in memory."""
        return self._cache.get(self, adapter.name)

    def wait_for(self, adapter: AdapterFolder, ticket: Ticket) -> None:
        """Start to read the adapter; the ticket will be among the arrivals."""
        if adapter not in self._reads:
            self._reads[adapter] = self._thread.submit(self._reader.read, adapter)
            self._reads[adapter].add_done_callback(lambda _: self._on_news())
        self._tickets.append((ticket, adapter))

    def arrivals(self) -> list[LoadResult]:
        """Tickets that no longer wait, including stopped ones, in the order in which they came."""
        ready = [(t, a) for t, a in self._tickets if self._reads[a].done() or t.stop_reason is not None]
        self._tickets = [one for one in self._tickets if one not in ready]
        arrived = [self._arrival(ticket, self._reads[adapter]) for ticket, adapter in ready]
        self._reads = {a: read for a, read in self._reads.items() if not read.done()}
        return arrived

    def count(self) -> int:
        return len(self._tickets)

    def give_back(self) -> None:
        """Forget the adapters that were read; later requests read them again."""
        self._cache.clear(self)

    def close(self) -> None:
        self.give_back()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _arrival(self, ticket: Ticket, read: Future[LoraWeights]) -> LoadResult:
        if not read.done():
            return LoadResult(ticket, None)
        error = read.exception()
        if error is not None:
            return LoadResult(ticket, None, error if isinstance(error, Exception) else RuntimeError(str(error)))
        self._cache.put(self, read.result())
        return LoadResult(ticket, read.result())
