"""The users of the service: they keep a number of jobs alive, ask for what their plans say, and never give up."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.chaos.plans import Plan, Planner

ENDED = ("succeeded", "failed", "cancelled")
ROWS = [{"messages": [{"role": "user", "content": f"hello {n}"}, {"role": "assistant", "content": "good day"}]}
        for n in range(16)]  # fmt: skip
# A poison job has shown by then that it waits longer after every failure.
POISON_ATTEMPTS = 3


@dataclass
class Order:
    """A job as its user knows it."""

    plan: Plan
    sent_at: float
    job: str | None = None
    accepted_at: float = 0.0
    status: str = "unsent"
    step: int = 0
    phase: str | None = None
    actions: list[Any] = field(default_factory=list)
    ended_at: float | None = None

    @property
    def is_alive(self) -> bool:
        return self.status not in ENDED


class Customers:
    """All of them, in one loop; each look at a job is one GET."""

    def __init__(self, url: str, planner: Planner, concurrency: int) -> None:
        self._api = httpx.Client(base_url=url, timeout=20)
        self._planner, self._jobs_at_once = planner, concurrency
        self._file: str | None = None
        self.orders: list[Order] = []
        self.answers: Counter[str] = Counter()
        self.unforeseen: list[str] = []

    def round(self, *, may_order: bool) -> None:
        """One look at everything."""
        alive = [order for order in self.orders if order.is_alive]
        if may_order and len(alive) < self._jobs_at_once:
            self.orders.append(Order(self._planner.next(), time.monotonic()))
        for order in [order for order in self.orders if order.is_alive]:
            if order.job is None:
                self._send(order)
            else:
                self._look(order, order.job)

    def alive(self) -> list[Order]:
        return [order for order in self.orders if order.is_alive]

    def ask(self, method: str, path: str, **rest: Any) -> httpx.Response | None:
        """None: the service did not answer, or could not now. What it must never answer is kept."""
        try:
            answer = self._api.request(method, path, **rest)
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
            return None
        self.answers[f"{method} {answer.status_code}"] += 1
        if answer.status_code >= 500:
            if answer.status_code != 503:
                self.unforeseen.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return None
        return answer

    def _send(self, order: Order) -> None:
        file = self._upload()
        if file is None:
            return
        headers = {"Idempotency-Key": order.plan.key}
        answer = self.ask("POST", "/jobs", json=order.plan.body(file), headers=headers)
        if answer is None:
            return
        if answer.status_code not in (200, 201):
            self.unforeseen.append(f"POST /jobs: {answer.status_code} {answer.text[:300]}")
            return
        order.job, order.status, order.accepted_at = answer.json()["id"], "validating", time.monotonic()
        order.actions = sorted(order.plan.actions, key=lambda action: action.after_seconds)

    def _upload(self) -> str | None:
        if self._file is None:
            body = "\n".join(json.dumps(row) for row in ROWS).encode()
            answer = self.ask("POST", "/files", files={"file": ("chats.jsonl", body)})
            self._file = answer.json()["id"] if answer is not None and answer.status_code == 201 else None
        return self._file

    def _look(self, order: Order, job: str) -> None:
        answer = self.ask("GET", f"/jobs/{job}")
        if answer is None:
            return
        if answer.status_code != 200:
            self.unforeseen.append(f"GET of a job that was accepted: {answer.status_code} {answer.text[:300]}")
            return
        seen = answer.json()
        order.status, order.phase = seen["status"], seen["phase"]
        order.step = seen["progress"]["step"] if seen["progress"] else 0
        if not order.is_alive:
            order.ended_at = time.monotonic()
        elif order.plan.is_poison and len(seen["attempts"]) > POISON_ATTEMPTS:
            self.ask("POST", f"/jobs/{job}/cancel")
        else:
            self._act(order, job, seen)

    def _act(self, order: Order, job: str, seen: dict[str, Any]) -> None:
        is_disk_full = seen["status"] == "paused" and (seen["error"] or {}).get("code") == "disk_full"
        is_forgotten = seen["status"] == "paused" and not order.actions
        if is_disk_full or is_forgotten:
            self.ask("POST", f"/jobs/{job}/resume")
            return
        if not order.actions or time.monotonic() < order.accepted_at + order.actions[0].after_seconds:
            return
        phase = order.actions[0].needs_phase
        if phase is not None and seen["phase"] != phase and time.monotonic() < order.accepted_at + 40:
            return
        answer = self.ask("POST", f"/jobs/{job}/{order.actions[0].path}")
        if answer is not None:
            order.actions.pop(0)
