"""Training jobs on a tiny model: each attempt is a process, forked from one that has imported Unsloth."""

import hashlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import (
    ATTEMPT_EVENT,
    AdapterSaved,
    AttemptEvent,
    Evaluated,
    Event,
    Noticed,
    Phase,
    Resumed,
    StepLogged,
)
from app.contracts.order import BaseRef
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from tests.support.events import has_step
from tests.support.prepared_rows import a_training
from tests.support.tiny_model import build_tiny_model
from worker.checkpoints import newest
from worker.child import environment
from worker.confinement.process import NVIDIA_CONTROL
from worker.training.__main__ import main
from worker.training.ranks.followers import FOLLOWER

# A step of the tiny model takes some tens of milliseconds.
POLL_SECONDS = 0.005
LONGEST_SECONDS = 120.0
# A process in which CUDA was initialised, as importing Unsloth does on a GPU host, cannot be forked.
TRAINERS: Any = multiprocessing.get_context("spawn" if NVIDIA_CONTROL.exists() else "forkserver")


@contextmanager
def a_trainers_base(folder: Path) -> Iterator[Path]:
    """A tiny model; meanwhile the environment is that of a trainer, for all that is forked here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(Process.TRAIN, folder / "cache").items():
            patch.setenv(name, value)
        patch.setenv("UNSLOTH_COMPILE_LOCATION", str(folder / "compiled"))
        patch.setenv("OMP_NUM_THREADS", "1")  # others may use the cores too: threads that wait for each other spin
        TRAINERS.set_forkserver_preload(["worker.training.recipe"])
        yield build_tiny_model(folder / "tiny")


def attempt_main(folder: Path) -> None:
    """In the forked process: what `python -m worker.training` does."""
    log = os.open(folder / "output.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    sys.argv = ["worker.training", str(folder / "order.json")]
    sys.exit(main())


@dataclass
class Job:
    """One job on disk, attempt after attempt; `goes_on_from` is a checkpoint of another one."""

    base: Path
    folder: Path
    data: dict[str, Path]
    spec: JobSpec
    eval_rows: Path | None = None
    start_from: Path | None = None
    goes_on_from: Path | None = None
    revision: str | None = None
    scaled_to: int | None = None
    ranks: int = 1
    devices: tuple[str, ...] = ()
    program: Callable[[Path], None] = attempt_main
    attempts: list[list[AttemptEvent]] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def events(self) -> Path:
        return self.folder / str(len(self.attempts) + 1) / "events.jsonl"

    def start(self) -> BaseProcess:
        """The next attempt, behind the newest checkpoint."""
        attempt = len(self.attempts) + 1
        folder = self.folder / str(attempt)
        (folder / "work").mkdir(parents=True)
        order = a_training(
            folder,
            self.spec,
            BaseRef(source=str(self.base), is_local=True, revision=self.revision, scaled_to=self.scaled_to),
            **self.data,
            epoch=attempt,
            eval_rows=self.eval_rows,
            resume_from=newest(self.checkpoints).path or self.goes_on_from,
            start_from=self.start_from,
            ranks=self.ranks,
            devices=self.devices,
            tracking=self.folder / "tracking" if self.spec.training.report_to else None,
        )
        (folder / "order.json").write_text(order.model_dump_json())
        process: BaseProcess = TRAINERS.Process(target=self.program, args=(folder,))
        process.start()
        return process

    def finish(self, process: BaseProcess) -> int | None:
        """Its exit code, once it has ended; keeps its events."""
        process.join(LONGEST_SECONDS)
        code = process.exitcode
        lines = self.events.read_text().splitlines() if self.events.exists() else []
        self.attempts.append([ATTEMPT_EVENT.validate_json(line) for line in lines])
        return code

    def run(self, number: signal.Signals | None = None, when: Callable[[str], bool] | None = None) -> int | None:
        """One attempt, sent a signal as soon as its events, as text, are so."""
        if when is None or number is None:
            return self.finish(self.start())
        process = self.start_until(when)
        assert process.pid is not None
        os.kill(process.pid, number)
        return self.finish(process)

    def start_until(self, when: Callable[[str], bool]) -> BaseProcess:
        """The next attempt, as soon as its events, as text, are so, or it has ended."""
        process = self.start()
        deadline = time.monotonic() + LONGEST_SECONDS
        while process.is_alive() and not (self.events.exists() and when(self.events.read_text())):
            assert time.monotonic() < deadline, self.events.read_text()
            time.sleep(POLL_SECONDS)
        return process

    def log(self) -> str:
        return (self.folder / str(len(self.attempts)) / "output.log").read_text()[-3000:]

    def last(self, kind: type[Event]) -> Any:
        return next((event for event in reversed(self.attempts[-1]) if isinstance(event, kind)), None)

    def notices(self) -> list[str]:
        return [event.code for attempt in self.attempts for event in attempt if isinstance(event, Noticed)]

    def steps(self) -> list[tuple[Any, ...]]:
        """What a client sees of all steps, once what a later attempt has repeated is left out."""
        return [
            (event.step, event.loss, event.learning_rate, event.grad_norm, event.tokens, event.epoch)
            for event in self._seen()
            if isinstance(event, StepLogged)
        ]

    def evaluations(self) -> list[tuple[int, float | None]]:
        return [(event.step, event.eval_loss) for event in self._seen() if isinstance(event, Evaluated)]

    def _seen(self) -> list[AttemptEvent]:
        seen: list[AttemptEvent] = []
        for attempt in self.attempts:
            for event in attempt:
                if isinstance(event, Resumed):
                    seen = [old for old in seen if old.step <= event.step]  # type: ignore[union-attr]
                elif isinstance(event, StepLogged | Evaluated):
                    seen.append(event)
        return seen

    def weights(self) -> str:
        saved = self.last(AdapterSaved)
        assert saved is not None, self.log()
        names = ("adapter_model.safetensors", "model.safetensors")
        found = next(path for path in (Path(saved.path, name) for name in names) if path.exists())
        return hashlib.sha256(found.read_bytes()).hexdigest()


def ranks_of(trainer: int) -> list[int]:
    """The processes that a trainer has started as its followers."""
    children = Path(f"/proc/{trainer}/task/{trainer}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, command in commands.items() if FOLLOWER.encode() in command]


def reached(step: int) -> Callable[[str], bool]:
    """A step as late as this one was logged."""
    return lambda text: has_step(text, step)


def in_phase(phase: Phase) -> Callable[[str], bool]:
    return lambda text: f'"phase":"{phase}"' in text
