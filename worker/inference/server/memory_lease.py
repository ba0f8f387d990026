"""Lets trainings have the memory of an engine: it is away as long as one of them holds it there.

in service ──first hold──> ending: nobody is let in, answers under way have a grace ──> away: no model is in memory
     ^────────────────────────── the last hold was released, or ran out ──────────────────────────┘
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
# Of one engine; a host has a slot for each of its GPUs.
MOST_HOLDS = 64
# Nobody knows when a training ends; whoever asks again so late is not much too late.
RETRY_AFTER_SECONDS = 30
log = logging.getLogger(__name__)


class StepsAside(Protocol):
    """An engine that can give its memory away for a while. All may be called from any thread, and be repeated."""

    @property
    def is_away(self) -> bool:
        """Whether nothing is in memory, nor will be before `come_back`."""
        ...

    def step_aside(self, reason: EngineError) -> None:
        """Let nobody in any more, and let go of the memory once the answers under way have ended."""
        ...

    def end_answers(self) -> None:
        """End the answers that are still under way, with the reason why it steps aside."""
        ...

    def come_back(self) -> None: ...


@dataclass(frozen=True)
class Hold:
    job_id: str
    runs_out: asyncio.TimerHandle


class Holds:
    """Who keeps the engine away. For one event loop, by whose monotonic clock holds run out."""

    def __init__(self, engine: StepsAside, grace_seconds: float = GRACE_SECONDS) -> None:
        """`grace_seconds`: what the answers under way have before they are ended."""
        self._engine = engine
        self._grace_seconds = grace_seconds
        self._holds: dict[str, Hold] = {}
        self._held_for: list[str] = []
        self._ending: asyncio.TimerHandle | None = None

    def hold(self, order: YieldOrder) -> YieldState:
        """Begin or renew a hold. Raises Refusal 429 where too many hold the engine already."""
        if order.holder not in self._holds and len(self._holds) >= MOST_HOLDS:
            raise Refusal(429, "too_many_holds", f"{MOST_HOLDS} hold the engine already", "holder")
        self._drop(order.holder)
        runs_out = asyncio.get_running_loop().call_later(order.lease_seconds, self._run_out, order.holder)
        self._holds[order.holder] = Hold(order.job_id, runs_out)
        return self._settle()

    def release(self, holder: str) -> YieldState:
        """Safe to repeat. Raises Refusal 409 for one who holds nothing, while others keep the engine away."""
        if self._holds and holder not in self._holds:
            raise Refusal(409, "not_the_holder", "only who holds the engine can let go of it", "holder")
        self._drop(holder)
        return self._settle()

    def _run_out(self, holder: str) -> None:
        log.warning("nobody has renewed the hold for %s", self._holds[holder].job_id)
        self.release(holder)

    def _drop(self, holder: str) -> None:
        hold = self._holds.pop(holder, None)
        if hold is not None:
            hold.runs_out.cancel()

    def _settle(self) -> YieldState:
        """Tell the engine what has changed for it."""
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
        message=f"the engine has stepped aside: {trains} in the memory that it answers from; it comes back afterwards",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def place_of(device: str) -> str:
    """What the memory of a device belongs to: the GPU's UUID, or this host's CPU."""
    if not device.startswith("cuda"):
        return this_cpu()
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def memory_held(device: str) -> int | None:
    """Bytes of the GPU that this process has for its models; None on a CPU."""
    return torch.cuda.memory_reserved(device) if device.startswith("cuda") else None
