"""What a training does that goes wrong by itself, as the labels of its job ask for it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from app.contracts.order import TrainingOrder
from worker.failures import UserError

FLOOD_LINES = 100_000


@dataclass(frozen=True)
class Misbehaviour:
    """`kind` is the name of one of the functions below, or nothing. `done` is there once it has happened."""

    kind: str
    step: int
    done: Path | None

    @classmethod
    def of(cls, order: TrainingOrder) -> "Misbehaviour":
        labels = order.spec.labels
        is_always = labels.get("misbehave_always") == "1"
        done = None if is_always else order.checkpoints.parent / "misbehaved"
        return cls(labels.get("misbehave", ""), int(labels.get("misbehave_at", "1")), done)

    def act_at(self, step: int) -> None:
        if not self.kind or step < self.step or (self.done is not None and self.done.exists()):
            return
        if self.done is not None:
            self.done.touch()
        KINDS[self.kind]()


def leave_with_3() -> NoReturn:
    os._exit(3)


def leave_without_a_result() -> NoReturn:
    os._exit(0)


def refuse() -> NoReturn:
    raise UserError("bad_idea", "this was asked for by a label", hint="leave the label out")


def fault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def ignore_sigterm() -> None:
    """From now on: what stops it has to use force."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def hang() -> NoReturn:
    while True:
        time.sleep(3600)


def flood() -> None:
    sys.stdout.write(("a line that nobody will read" * 8 + "\n") * FLOOD_LINES)
    sys.stdout.flush()


def leave_an_orphan() -> None:
    """A process in a session of its own that ignores signals and has all descriptors of this one."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    subprocess.Popen([sys.executable, "-S", "-c", program, "orphan"], close_fds=False, start_new_session=True)


KINDS = {
    "exit": leave_with_3,
    "quit": leave_without_a_result,
    "user_error": refuse,
    "segv": fault,
    "ignore_term": ignore_sigterm,
    "hang": hang,
    "flood": flood,
    "orphan": leave_an_orphan,
}
