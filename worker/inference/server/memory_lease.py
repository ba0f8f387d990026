"""Gives the engine's memory to trainings: the engine keeps away from it as long as a training holds it.

in service ──first hold──> ending: no request is accepted, running answers have a grace ──> away: no model is in memory
     ^────────────────────────── the last hold was released, or expired ──────────────────────────┘
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

import torch

from app.contracts.generation import EngineError
from app.contracts.memory_lease import YieldOrder, YieldState, this_cpu
from worker.inference.engine import Refusal

GRACE_SECONDS = 10.0
# The limit of one engine; each GPU of a host has one slot for trainings.
MOST_HOLDS = 64
# It is not known when the training ends, so clients are told to retry after this time.
RETRY_AFTER_SECONDS = 30
log = logging.getLogger(__name__)


class StepsAside(Protocol):
    """An engine that can give its memory away for a while. All methods are thread-safe and safe to repeat."""

    @property
    def is_away(self) -> bool:
        """Whether no model is in memory, nor will be before `come_back`."""
        ...

    def step_aside(self, reason: EngineError) -> None:
        """Refuse new requests, and free the memory once the running answers have ended."""
        ...

    def end_answers(self) -> None:
        """End the running answers with the reason that was given to `step_aside`."""
        ...

    def come_back(self) -> None: ...


@dataclass(frozen=True)
class MemoryLease:
    job_id: str
    runs_out: asyncio.TimerHandle


class MemoryLeases:
    """The holds on the engine's memory. For one event loop, whose monotonic clock decides when a hold expires."""

    def __init__(self, engine: StepsAside, grace_seconds: float = GRACE_SECONDS) -> None:
        """`grace_seconds`: how long running answers may continue before they are ended."""
        self._engine = engine
        self._grace_seconds = grace_seconds
        self._holds: dict[str, MemoryLease] = {}
        self._held_for: list[str] = []
        self._ending: asyncio.TimerHandle | None = None

    def hold(self, order: YieldOrder) -> YieldState:
        """Begin or renew a hold. Raises Refusal 429 if there are too many holds."""
        if order.holder not in self._holds and len(self._holds) >= MOST_HOLDS:
            raise Refusal(429, "too_many_holds", f"{MOST_HOLDS} jobs hold the engine already", "holder")
        self._drop(order.holder)
        runs_out = asyncio.get_running_loop().call_later(order.lease_seconds, self._run_out, order.holder)
        self._holds[order.holder] = MemoryLease(order.job_id, runs_out)
        return self._settle()

    def release(self, holder: str) -> YieldState:
        """Release a hold; safe to repeat. Raises Refusal 409 if this holder has none but others have one."""
        if self._holds and holder not in self._holds:
            raise Refusal(409, "not_the_holder", "only a holder of the engine can release it", "holder")
        self._drop(holder)
        return self._settle()

    def _run_out(self, holder: str) -> None:
        log.warning("the hold for %s expired: it was not renewed", self._holds[holder].job_id)
        self.release(holder)

    def _drop(self, holder: str) -> None:
        hold = self._holds.pop(holder, None)
        if hold is not None:
            hold.runs_out.cancel()

    def _settle(self) -> YieldState:
        """Call the engine if the holds changed its state."""
        held_for = sorted({hold.job_id for hold in self._holds.values()})
        if held_for != self._held_for:
            self._held_for = held_for
            if held_for:
                self._send_away()
            else:
                self._call_back()
        return YieldState(is_away=self._engine.is_away, held_for=held_for)

    def _send_away(self) -> None:
        log.info("the engine steps aside for %s", ", ".join(self._held_for))
        self._engine.step_aside(_reason(self._held_for))
        if self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(self._grace_seconds, self._engine.end_answers)

    def _call_back(self) -> None:
        log.info("the engine comes back")
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        self._engine.come_back()


def _reason(jobs: list[str]) -> EngineError:
    trains = f"{jobs[0]} trains" if len(jobs) == 1 else f"{', '.join(jobs)} train"
    return EngineError(
        status=503,
        code="engine_unavailable",
        message=f"the engine has stepped aside: {trains} in the memory that it needs; it comes back afterwards",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def place_of(device: str) -> str:
    """The owner of a device's memory: the GPU's UUID, or this host's CPU."""
    if not device.startswith("cuda"):
        return this_cpu()
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def memory_held(device: str) -> int | None:
    """Bytes of GPU memory that this process has reserved for its models. Returns None on a CPU."""
    return torch.cuda.memory_reserved(device) if device.startswith("cuda") else None
