"""What must hold whatever happened: asked of the API, of the files of the attempts, and of the trainers' journal."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.contracts.events import ATTEMPT_EVENT
from bench.chaos import journal
from bench.chaos.customers import Customers, Order
from bench.chaos.network import Taken, quiet_run
from bench.chaos.plans import SUCCEEDED
from bench.chaos.stack import Stack
from bench.chaos.trainer import write_bundle
from worker.checkpoints import verify
from worker.hashing import bundle_version

PAGE = 1000
# Events that the worker writes itself stand in no file of the attempt.
OF_THE_WORKER = ("status", "notice", "request")


@dataclass
class Judge:
    """All that is asked of one run. Each finding is a line for a person: what was broken, and by what it is seen."""

    stack: Stack
    customers: Customers
    excused: frozenset[str | None]

    def findings(self) -> dict[str, list[str]]:
        """By invariant; an empty list is what must be there."""
        ended = [order for order in self.customers.orders if order.job is not None and not order.is_alive]
        each = {
            "wrong_end": self.wrong_ends,
            "events_missing_or_doubled": self.bad_events,
            "wrong_metrics": self.bad_metrics,
            "wrong_artifact": self.bad_artifacts,
            "checkpoints_named_but_gone": self.lost_checkpoints,
            "attempts_open": self.open_attempts,
            "went_on_too_early": self.early_starts,
        }
        found = {name: [line for order in ended for line in check(order)] for name, check in each.items()}
        lives = journal.lives(journal.read(self.stack.folder / "journal.jsonl"))
        return {
            "lost_or_doubled_jobs": list(self.lost_jobs()),
            "not_ended_in_time": [f"{one.job} ({one.plan.key}) is {one.status}" for one in self.customers.alive()],
            "two_at_once": list(journal.overlaps(lives)),
            "trainer_without_slot": [
                f"{life.job} attempt {life.epoch}" for life in lives if life.slot == journal.NO_SLOT
            ],
            "unforeseen_answers": self.customers.unforeseen,
            **found,
        }

    def lost_jobs(self) -> Iterator[str]:
        """Every key that was accepted has exactly one row, and it is the one that its user got in the answer."""
        rows = Counter[str]()
        names: dict[str, str] = {}
        after = None
        while True:
            page = self._get("/jobs", limit=PAGE, **({"after": after} if after else {}))
            for job in page["data"]:
                rows[job["labels"]["chaos"]] += 1
                names[job["labels"]["chaos"]] = job["id"]
            if not page["has_more"]:
                break
            after = page["last_id"]
        for order in self.customers.orders:
            if order.job is None:
                yield f"{order.plan.key} was never accepted"
            elif rows[order.plan.key] != 1 or names[order.plan.key] != order.job:
                yield f"{order.plan.key}: {rows[order.plan.key]} rows, {names.get(order.plan.key)} and {order.job}"

    def wrong_ends(self, order: Order) -> Iterator[str]:
        if order.status not in order.plan.ends:
            job = self._get(f"/jobs/{order.job}")
            last = [f"{one['epoch']}:{one['outcome']}" for one in job["attempts"]]
            yield f"{order.job} ({order.plan.key}) {order.status}: {job['error']}; attempts {last}"
        elif order.plan.error_code is not None:
            error = self._get(f"/jobs/{order.job}")["error"] or {}
            if error.get("code") != order.plan.error_code:
                yield f"{order.job} ({order.plan.key}): {error}"

    def bad_events(self, order: Order) -> Iterator[str]:
        events = self._events(order)
        numbers = [event["seq"] for event in events]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"{order.job}: numbers {numbers[:20]}…"
        for attempt in self._get(f"/jobs/{order.job}")["attempts"]:
            yield from self._compare_with_file(order, attempt["epoch"], events)

    def _compare_with_file(self, order: Order, epoch: int, events: list[dict[str, Any]]) -> Iterator[str]:
        """What is stored of an attempt is what its process wrote: its beginning, where the job ended first."""
        path = self.stack.home / "jobs" / str(order.job) / "attempts" / str(epoch) / "events.jsonl"
        written = list(_written(path))
        stored = [_mark(one) for one in events if one["attempt"] == epoch and one["kind"] not in OF_THE_WORKER]
        while stored and stored[0][0] == "checkpoint_removed":  # the worker's own, before its trainer has begun
            stored.pop(0)
        while len(stored) > len(written) and stored[-1][0] == "checkpoint_removed":  # or once its trainer was gone
            stored.pop()
        is_whole = stored == written if order.status == SUCCEEDED else stored == written[: len(stored)]
        if not is_whole:
            place = next((n for n, pair in enumerate(zip(stored, written, strict=False)) if pair[0] != pair[1]), None)
            counts = f"{len(stored)} stored, {len(written)} written, they differ at {place}"
            yield f"{order.job} ({order.plan.key}, {order.status}) attempt {epoch}: {counts}"

    def bad_metrics(self, order: Order) -> Iterator[str]:
        """The curve is the one of a quiet run, each step once, from the first to the last."""
        taken, _ = expected(order.plan.seed, order.plan.steps)
        shown = [
            (one["step"], one["loss"], one["learning_rate"]) for one in self._get(f"/jobs/{order.job}/metrics")["steps"]
        ]
        wanted = [(one.step, one.loss, one.learning_rate) for one in taken]
        if shown != (wanted if order.status == SUCCEEDED else wanted[: len(shown)]):
            steps = [step for step, *_ in shown]
            wrong = [seen[0] for seen, want in zip(shown, wanted, strict=False) if seen != want][:5]
            counts = f"{len(shown)} of {len(wanted)} steps, the first wrong ones {wrong}, the last {steps[-3:]}"
            yield f"{order.job} ({order.plan.key}, {order.status}): {counts}"

    def bad_artifacts(self, order: Order) -> Iterator[str]:
        if order.status != SUCCEEDED:
            return
        _, version = expected(order.plan.seed, order.plan.steps)
        adapter = self._get(f"/jobs/{order.job}")["result"]["adapter"]
        name, _, named = adapter.partition("@")
        folder = self.stack.home / "adapters" / name / named
        if named != version or not folder.is_dir() or bundle_version(folder) != version:
            yield f"{order.job} ({order.plan.key}): {adapter}, expected {version}; there: {folder.is_dir()}"

    def lost_checkpoints(self, order: Order) -> Iterator[str]:
        """A checkpoint that is listed is there; a torn one was torn by a fault, so only names are compared."""
        folder = self.stack.home / "jobs" / str(order.job) / "checkpoints"
        for one in self._get(f"/jobs/{order.job}/checkpoints")["data"]:
            path = folder / f"step-{one['step']:08d}-attempt-{one['attempt']}"
            if not path.is_dir():
                yield f"{order.job} ({order.plan.key}, {order.status}): {path.name} is listed and not there"

    def early_starts(self, order: Order) -> Iterator[str]:
        """An attempt continues after the newest checkpoint that an earlier attempt reported; torn ones excuse a job."""
        if order.job in self.excused:
            return
        newest = 0
        for attempt in self._get(f"/jobs/{order.job}")["attempts"]:
            start = attempt["resume_step"]
            if start is not None and start < newest:
                yield f"{order.job} ({order.plan.key}) attempt {attempt['epoch']} began at {start}, not at {newest}"
            path = self.stack.home / "jobs" / str(order.job) / "attempts" / str(attempt["epoch"]) / "events.jsonl"
            newest = max([newest, *(step for kind, step, *_ in _written(path) if kind == "checkpoint")])

    def open_attempts(self, order: Order) -> Iterator[str]:
        for attempt in self._get(f"/jobs/{order.job}")["attempts"]:
            if attempt["ended_at"] is None:
                yield f"{order.job} attempt {attempt['epoch']} has no end"

    def _events(self, order: Order) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["seq"] if found else 0
            page = self._get(f"/jobs/{order.job}/events", after=after, limit=PAGE)
            found += page["data"]
            if not page["has_more"]:
                return found

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = self.customers.ask("GET", path, params=query)
        if answer is None or answer.status_code != 200:
            raise RuntimeError(f"GET {path} after the faults were over: {answer.text if answer else 'no answer'}")
        found: dict[str, Any] = answer.json()
        return found


@cache
def expected(seed: int, steps: int) -> tuple[list[Taken], str]:
    """The steps of a quiet run, and the version of its adapter."""
    taken, weights = quiet_run(seed, steps)
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder) / "adapter", weights, steps)
        return taken, bundle_version(Path(folder) / "adapter")


def _written(path: Path) -> Iterator[tuple[Any, ...]]:
    """The whole lines of an events file that are events."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            event = ATTEMPT_EVENT.validate_json(line)
        except ValidationError:
            continue
        if event.kind not in OF_THE_WORKER:
            yield _mark(event.model_dump(mode="json"))


def _mark(event: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one event of an attempt from another."""
    return (event["kind"], event.get("step"), event.get("phase"), event.get("loss"))


def torn_checkpoints(home: Path) -> int:
    """Folders with a checkpoint's name that are not whole: what faults have torn and nobody has removed yet."""
    found = home.glob("jobs/*/checkpoints/step-*")
    return sum(1 for path in found if re.match(r"step-\d+-attempt-\d+$", path.name) and verify(path) is None)
