"""The processes of a run, found by its mark in their environment, and told apart by their command lines."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GUARDIAN = "guardian_process.py"
# The first word that a command line holds says what the process is; a guardian's holds that of its child too.
WORDS = {
    "trainer": "bench.chaos.trainer",
    "checking": "worker.checking",
    "worker": "tunesmith.train",
    "checker": "tunesmith.check",
    "api": "uvicorn",
    "broker": "valkey-server",
    "up": "app.cli up",
    "orphan": " orphan",
}


@dataclass(frozen=True)
class Process:
    """`role` is a key of `WORDS`, with "guardian of " before it for a guardian."""

    pid: int
    role: str
    line: str

    @property
    def job(self) -> str | None:
        """The job that a trainer, a check or a guardian of one works on."""
        return next((part for part in Path(self.line.split()[-1]).parts if part.startswith("job-")), None)

    def send(self, number: int) -> bool:
        """False: it was gone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def kill(self) -> bool:
        return self.send(signal.SIGKILL)

    @property
    def is_alive(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False


def of_run(mark: str) -> Iterator[Process]:
    """Every process that belongs to the run, by its environment or its arguments, but this one.

    Valkey writes its title over its environment.
    """
    needle = f"CHAOS_RUN={mark}\0".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environment = (folder / "environ").read_bytes() + b"\0"
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if line and (needle in environment or f"{mark}/home/run" in line):
            yield Process(int(folder.name), _role(line), line)


def _role(line: str) -> str:
    what = next((role for role, word in WORDS.items() if word in line), "other")
    return f"guardian of {what}" if GUARDIAN in line else what
