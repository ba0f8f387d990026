"""A rival's process, which imports its libraries beside others and then waits until it is the only one to train."""

import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from app.processes.environments import Process
from app.processes.guardian import spawn
from bench.training.contracts import RunOrder, RunResult
from worker.child import environment

ROOT = Path(__file__).resolve().parents[2]
# How much of a failed run's output is reported.
TAIL_CHARACTERS = 1500


def run_environment(cache: Path, visible_devices: str) -> dict[str, str]:
    """A trainer's environment, in which this repository is found from every folder."""
    inherited = environment(Process.TRAIN, cache)
    path = os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH"))))
    return {**inherited, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": visible_devices}


class RivalProcess:
    """Starts at once, and ends with its `with` block."""

    def __init__(self, order: RunOrder, visible_devices: str) -> None:
        self.order = order
        order.folder.mkdir(parents=True)
        (order.folder / "run.json").write_text(order.model_dump_json())
        self._log = order.folder / "output.log"
        self._ready, ready = os.pipe()
        go, self._go = os.pipe()
        module = "bench.training.run_rival"
        self._child = spawn(
            [sys.executable, "-m", module, str(order.folder / "run.json"), str(ready), str(go)],
            env=run_environment(order.cache, visible_devices),
            cwd=order.folder,
            output=self._log,
            pass_fds=(ready, go),
        )
        os.close(ready)
        os.close(go)

    def wait_until_imported(self, seconds: float) -> None:
        """Returns when the libraries are imported, when the process has ended, or after so many seconds."""
        select.select([self._ready], [], [], max(seconds, 0))

    def train(self, seconds: float) -> RunResult:
        """Let it train now. The result says what failed, if it is not done after so many seconds."""
        try:
            os.write(self._go, b".")
            code = self._child.wait(max(seconds, 0))
        except BrokenPipeError:
            code = self._child.wait()
        except subprocess.TimeoutExpired:
            return RunResult(failed=f"not done after {seconds:.0f} seconds")
        if code or not self.order.result.exists():
            return RunResult(failed=f"exit code {code}: {self._log.read_text(errors='replace')[-TAIL_CHARACTERS:]}")
        return RunResult.model_validate_json(self.order.result.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._ready)
        os.close(self._go)
        self._child.__exit__(kind, error, trace)
