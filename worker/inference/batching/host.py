"""One base model that answers in batches. Not thread-safe; queues and loading are elsewhere."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from worker.inference.batching.attention import NotBatchable
from worker.inference.batching.blocks import BlockPool
from worker.inference.batching.cache import KeyValueCache
from worker.inference.batching.loading import AdapterReader
from worker.inference.batching.lora import AdapterSlots, LoraWeights
from worker.inference.batching.memory import cache_places
from worker.inference.batching.packed.packed_host import PackedRunner
from worker.inference.batching.plan import Tables
from worker.inference.batching.runner import Runner
from worker.inference.batching.sampling_batch import Choices
from worker.inference.batching.sequence import NextTokens, Sequence
from worker.inference.batching.support import try_batching
from worker.inference.batching.tensors import to_device
from worker.inference.engine import Token, TokenEvent
from worker.inference.models.serial import event_of
from worker.inference.server.limits import check_cache_holds, check_fits, end_tokens, model_limit
from worker.inference.server.waiting import Ticket

CHUNK_TOKENS = 512
PACKED_CHUNK_TOKENS = 960  # together with 64 answers they fill one of the larger shapes
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """Limits that are fixed while an engine runs.

    `cache_bytes`: for keys and values of all models in memory together; None: decided by the free memory.

    `cache_tokens`: for each model; None: decided by the bytes.

    `chunk_tokens`: prompt tokens that one step reads; None: a number that uses the device well without delaying
    answers.
    """

    answers: int = 64
    adapters: int = 16
    block_tokens: int = 16
    chunk_tokens: int | None = None
    cache_tokens: int | None = None
    cache_bytes: int | None = None


class BatchHost:
    """Answers many requests at once. Raises NotBatchable, and leaves the model unchanged, if the model cannot."""

    def __init__(
        self,
        model: Any,
        limits: BatchLimits,
        finish: Callable[[Ticket, TokenEvent], None],
        on_growth: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_growth` is called before keys and values are written to memory that this host did not use before."""
        support = try_batching(model)
        self.reader = AdapterReader(model, frozenset(support.siblings))
        self.running: list[Sequence] = []
        step = 1 if support.kernels is None else support.kernels.rank_step
        self.slots = AdapterSlots(model, limits.adapters, model.dtype, support.siblings, rank_step=step)
        self._model = model
        self._finish = finish
        self._on_growth = on_growth
        self._limits = limits
        self._awaited: tuple[list[Sequence], Choices] | None = None  # the choices of the last step, not read yet
        self._ends = end_tokens(model)
        size = limits.block_tokens
        block_bytes = size * support.small_cache.bytes_per_place()
        places = limits.cache_tokens or cache_places(
            block_bytes // size, limits.answers, model_limit(model), model.device, limits.cache_bytes
        )
        self.blocks = BlockPool(places // size + 1, size)
        if self.blocks.total < 1:
            raise NotBatchable("no memory is left for keys and values")
        self._cache = KeyValueCache.like(support.small_cache, (self.blocks.total + 1) * size)
        self._block_bytes = block_bytes
        width = min(self.blocks.total, self.blocks.blocks_for(model_limit(model) or places))
        self._tables = Tables(limits.answers, width, size, str(model.device))
        self._rows = list(range(limits.answers, 0, -1))
        parts = (model, self._tables, self._cache, self.slots)
        self._runner: Runner | PackedRunner = Runner(*parts)
        self._chunk_tokens = limits.chunk_tokens or CHUNK_TOKENS
        if support.kernels is not None:
            self._chunk_tokens = limits.chunk_tokens or PACKED_CHUNK_TOKENS
            self._runner = PackedRunner(*parts, support.kernels, limits.answers, self._chunk_tokens)

    @property
    def places(self) -> int:
        """The number of answers that it computes at once."""
        return self._limits.answers

    @property
    def cache_tokens(self) -> int:
        """The number of tokens whose keys and values fit into the cache."""
        return self.blocks.total * self.blocks.block_tokens

    @property
    def cache_bytes(self) -> int:
        """The bytes of all keys and values that fit into the cache."""
        is_grown = self._model.device.type == "cpu"
        return (self.blocks.used if is_grown else self.blocks.total + 1) * self._block_bytes

    def give_back(self) -> None:
        """Forget everything that is kept for later requests and return its memory to the system.

        No answer may be in progress. Use it on a CPU only: on a GPU the memory is one piece, over which graphs are
        recorded.
        """
        self.blocks.forget()
        self._cache.reset()
        self.slots.empty()

    def check(self, ticket: Ticket) -> None:
        """Raises Refusal if this model or this cache can never answer the request."""
        prompt, most = ticket.request.prompt_ids, ticket.request.sampling.max_new_tokens
        check_fits(self._model, prompt, most)
        check_cache_holds(self.cache_tokens, len(prompt), most)

    def admit(self, ticket: Ticket, weights: LoraWeights | None) -> bool:
        """Begin to answer a checked request. Returns False while there is no place for it."""
        request = ticket.request
        prompt, most = request.prompt_ids, request.sampling.max_new_tokens
        if not self._rows:
            return False
        slot = 0 if weights is None else self.slots.use(weights)
        if slot is None:
            return False
        responder = request.adapter.name if request.adapter is not None else ""
        used = self.blocks.used
        holding = self.blocks.take(responder, prompt, len(prompt) + most - 1)
        if holding is None:
            if weights is not None:
                self.slots.leave(weights.name)
            return False
        sequence = Sequence(ticket, holding, row=self._rows.pop(), slot=slot, model_ends=self._ends)
        self.running.append(sequence)
        if self.blocks.used > used:
            self._on_growth()
        self._prepare(sequence, used)
        return True

    def _prepare(self, sequence: Sequence, used: int) -> None:
        """Clear reused blocks; those beyond the first `used` are still zero.

        A failure affects only this answer, which ends with its error at the next step.
        """
        try:
            size, holding = self.blocks.block_tokens, sequence.holding
            self._tables.set(sequence.row, holding.blocks)
            fresh = holding.blocks[holding.shared_tokens // size :]
            places = [block * size + within for block in fresh if block <= used for within in range(size)]
            self._cache.clear(to_device(places, self._model.device, torch.int64))
            sequence.decide_how(self._ends, str(self._model.device))
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
            sequence.last = event_of(error)

    def step(self) -> bool:
        """Advance every answer by one step, or end it. Returns False if there was none. Device errors are passed on.

        On a GPU the next step starts before the tokens of the last one are read and sent.
        """
        self._end_finished()
        if not self.running:
            self._awaited = None
            return False
        work = self._next_work()
        if work:
            self._advance(work)
        else:
            self._settle()
        self._end_finished()
        return True

    def prepare(self) -> bool:
        """Prepare one more shape of a step, while no answer is in progress. Returns False if none is left."""
        return not self.running and self._runner.prepare()

    def close(self) -> None:
        """Restore the layers of the model. Its attention stays the paged one, so load the model again for
        another use.
        """
        self.slots.unwrap()

    def _next_work(self) -> list[NextTokens]:
        """The work of the next step: one token for every answer, and a chunk of tokens for prompts, the
        earliest first.
        """
        work, left = [], self._chunk_tokens
        for sequence in self.running:
            if sequence.is_complete:
                continue
            count = sequence.pending if sequence.pending == 1 else min(sequence.pending, left)
            if count == 0:
                continue
            work.append(NextTokens(sequence, count))
            left -= count if sequence.pending > 1 else 0
        return work

    def _advance(self, work: list[NextTokens]) -> None:
        """Run the work. If it fails, try it in halves, so that only the answer at fault fails. A step may be
        repeated.
        """
        try:
            readers, scores = self._runner.step(work)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
            self._settle()
            if len(work) == 1:
                work[0].sequence.last = event_of(error)
                return
            error.__traceback__ = None  # its frames keep tensors alive
            middle = len(work) // 2
            self._advance(work[:middle])
            self._advance(work[middle:])
            return
        sequences = [one.sequence for one in readers]
        choices = Choices(sequences, scores) if readers else None
        for one in work:
            one.sequence.computed += one.count
            self._publish(one.sequence)
        self._settle()
        if choices is not None:
            self._await(sequences, choices)

    def _await(self, sequences: list[Sequence], choices: Choices) -> None:
        """Continue before the choices are known, if the device can."""
        for sequence in sequences:
            sequence.expect()
        self._awaited = (sequences, choices)
        if not self._runner.is_ahead or choices.needs_host or choices.best is None:
            self._settle()
        else:
            self._runner.remember(choices.best)

    def _settle(self) -> None:
        """Read the last choices and send them. Choices for answers that have ended are dropped."""
        if self._awaited is None:
            return
        (sequences, choices), self._awaited = self._awaited, None
        events: list[tuple[Ticket, TokenEvent]] = []
        for sequence, token in zip(sequences, choices.read(), strict=True):
            if sequence.last is not None:
                continue
            if not isinstance(token, Token):
                sequence.last = event_of(token)
                continue
            if (part := sequence.take(token)) is not None:
                events.append((sequence.ticket, part))
            self._publish(sequence)
        Ticket.put_all(events)

    def _publish(self, sequence: Sequence) -> None:
        """Let other sequences reuse what was computed, as far as the host knows the tokens."""
        self.blocks.publish(sequence.holding, sequence.tokens, min(sequence.computed, sequence.known))

    def _end_finished(self) -> None:
        for sequence in list(self.running):
            last = sequence.last or sequence.ticket.stop_reason
            if last is not None:
                sequence.last = last
                self._end(sequence)
                self._finish(sequence.ticket, last)

    def _end(self, sequence: Sequence) -> None:
        """Free everything that an answer holds."""
        self.running.remove(sequence)
        self.blocks.give_back(sequence.holding)
        self._rows.append(sequence.row)
        if sequence.adapter is not None:
            self.slots.leave(sequence.adapter)
