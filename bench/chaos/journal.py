"""What the trainers did, written by themselves beside all that the service knows: who worked on which job, in which
slot, when. One line a step, by the clock that all processes of a host share, so overlaps cannot be hidden."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

NO_SLOT = "none"


@dataclass(frozen=True)
class Entry:
    """`kind`: born (the process has read its order), step, end (it leaves by itself). Seconds of `time.monotonic`."""

    kind: str
    job: str
    epoch: int
    slot: str
    pid: int
    step: int
    began: float
    ended: float


class Journal:
    """A trainer's side. One write a line, so that a death leaves no half of one."""

    def __init__(self, path: Path, job: str, epoch: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._job, self._epoch, self._slot, self._pid = job, epoch, slot_of_this_process(), os.getpid()

    def write(self, kind: str, step: int, began: float) -> None:
        entry = Entry(kind, self._job, self._epoch, self._slot, self._pid, step, began, time.monotonic())
        os.write(self._file, json.dumps(asdict(entry)).encode() + b"\n")


def slot_of_this_process() -> str:
    """The lock that this process holds, by the descriptor that it inherited."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.endswith(".lock") and "/slots/" in target:
            return Path(target).name
    return NO_SLOT


def read(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    return [Entry(**json.loads(line)) for line in path.read_text().splitlines()]


@dataclass(frozen=True)
class Life:
    """One trainer process, from its first sign to its last."""

    job: str
    epoch: int
    slot: str
    pid: int
    began: float
    ended: float
    steps: tuple[Entry, ...]


def lives(entries: Iterable[Entry]) -> list[Life]:
    """All trainer processes, the first first."""
    by_process: defaultdict[tuple[str, int, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_process[entry.job, entry.epoch, entry.pid].append(entry)
    found = [
        Life(
            *(own[0].job, own[0].epoch, own[0].slot, own[0].pid, own[0].began, own[-1].ended),
            tuple(entry for entry in own if entry.kind == "step"),
        )
        for own in by_process.values()
    ]
    return sorted(found, key=lambda life: life.began)


def overlaps(found: Iterable[Life]) -> Iterator[str]:
    """Two processes that worked at the same time on one job, or in one slot."""
    lasts: dict[tuple[str, str], Life] = {}
    for life in sorted(found, key=lambda one: one.began):
        for what in [("job", life.job)] + [("slot", life.slot)] * (life.slot != NO_SLOT):
            last = lasts.get(what)
            if last is not None and life.began < last.ended:
                late = sum(1 for step in last.steps if step.ended > life.began)
                yield f"{what[0]} {what[1]}: process {last.pid} took {late} steps after {life.pid} had begun"
            if last is None or life.ended > last.ended:
                lasts[what] = life


def repeated_steps(found: Iterable[Life]) -> int:
    """Steps that were taken more than once."""
    taken: defaultdict[str, list[int]] = defaultdict(list)
    for life in found:
        taken[life.job].extend(entry.step for entry in life.steps)
    return sum(len(steps) - len(set(steps)) for steps in taken.values())
