"""A training on a GPU that is stopped and killed, and goes on: its losses are those of a quiet run.

On a GPU sums are taken in an order that differs from run to run (atomic additions of the attention's backward pass and
of the 4-bit kernels), so two quiet runs differ too: the tolerance is what separates those.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, CheckpointSaved, Finished, Resumed, StepLogged
from app.contracts.order import BaseRef, TrainingOrder
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from app.processes.guardian import Guarded, spawn
from tests.gpu.test_training import CHATS
from tests.support.events import has_step
from tests.support.prepared_rows import a_training, prepare
from worker.checkpoints import newest
from worker.child import TRAINER, command, environment
from worker.stopping import INTERRUPTED

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
STEPS = 30
TOLERANCE = 2e-2


class Attempts:
    """One job: each `run` is an attempt that goes on from the newest checkpoint."""

    def __init__(self, base: Path, folder: Path, **groups: Any) -> None:
        folder.mkdir()
        training = {"max_steps": STEPS, "learning_rate": 5e-3, "warmup_steps": 2, "save_steps": 5}
        body = {"model": {"model_name": "tiny", "max_seq_length": 256}, "dataset": {"source": {"path": "train.jsonl"}}}
        self.spec = JobSpec.model_validate({**body, **groups, "training": {**training, **groups.get("training", {})}})
        self.base, self.folder = base, folder
        self.data = prepare(base, folder, [{"messages": chat} for chat in CHATS], self.spec)
        self.events: list[list[AttemptEvent]] = []

    def run(self, stop_at: int | None = None, *, kill: bool = False) -> int:
        """The exit code; `stop_at` is a step behind which the process is stopped, or killed."""
        order = self._order(len(self.events) + 1)
        path = order.work_dir / "order.json"
        path.write_text(order.model_dump_json())
        env = environment(Process.TRAIN, self.folder.parent / "cache")
        log = self.folder / "output.log"
        with spawn(command(TRAINER, path), env=env, cwd=order.work_dir, output=log, grace_seconds=60) as child:
            if stop_at is not None:
                _wait_for_step(order.events, child, stop_at)
                child.kill() if kill else child.stop()
            code = child.wait(400)
        self.events.append([ATTEMPT_EVENT.validate_json(line) for line in order.events.read_text().splitlines()])
        return code

    def losses(self) -> dict[int, float | None]:
        """By step, as the last attempt saw it that took it."""
        return {event.step: event.loss for run in self.events for event in run if isinstance(event, StepLogged)}

    def all(self, kind: type[AttemptEvent]) -> list[Any]:
        return [event for run in self.events for event in run if isinstance(event, kind)]

    def _order(self, epoch: int) -> TrainingOrder:
        work = self.folder / str(epoch)
        work.mkdir()
        base, resume_from = BaseRef(source=str(self.base), is_local=True), newest(self.folder / "checkpoints").path
        return a_training(work, self.spec, base, **self.data, epoch=epoch, work_dir=work, resume_from=resume_from)


def _wait_for_step(events: Path, child: Guarded, step: int) -> None:
    deadline = time.monotonic() + 300
    while child.poll() is None and time.monotonic() < deadline:
        if events.exists() and has_step(events.read_text(), step):
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not seen")


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"model": {"model_name": "tiny", "max_seq_length": 256, "load_in_4bit": False}, "lora": {"lora_dropout": 0.1}},
    ],
    ids=["page", "16bit-dropout"],
)
def test_stopped_and_killed_a_training_goes_on_as_if_nothing_had_been(
    base: Path,
    tmp_path: Path,
    groups: dict[str, Any],
    record_property: Callable[[str, object], None],
) -> None:
    quiet, again, broken = (Attempts(base, tmp_path / name, **groups) for name in ("quiet", "again", "broken"))

    assert (quiet.run(), again.run()) == (0, 0)
    codes = [broken.run(7), broken.run(16, kill=True), broken.run(22), broken.run()]

    assert codes == [INTERRUPTED, 128 + signal.SIGKILL, INTERRUPTED, 0]
    apart = _apart(quiet, again), _apart(quiet, broken)
    saves = [saved.seconds for saved in quiet.all(CheckpointSaved)]
    record_property("relative difference of losses: two quiet runs, quiet and broken", apart)
    record_property("seconds a checkpoint", saves)
    record_property("resumed behind", [event.step for event in broken.all(Resumed)])
    assert list(broken.losses()) == list(quiet.losses()) == list(range(1, STEPS + 1))
    assert apart[1] <= max(TOLERANCE, 2 * apart[0])
    assert broken.all(Finished)[0].tokens == quiet.all(Finished)[0].tokens


def _apart(one: Attempts, other: Attempts) -> float:
    pairs = zip(one.losses().values(), other.losses().values(), strict=True)
    return max(abs(a - b) / abs(a) for a, b in pairs if a is not None and b is not None)
