"""`python -m tests.support.stand_in_trainer ORDER.json`: steps, saves and stops as a trainer does, without torch.

What a worker makes of its child is under test, so the job's labels tell it how to behave: `steps`, `step_seconds`,
`save_every`, `artifacts` (how many it saves), `at` (a step) and `does` (what happens there, in the first attempt or,
with `always`, in every one).
"""

import os
import signal
import sys
import time
from pathlib import Path

from app.contracts.events import (
    AdapterSaved,
    ArtifactSaved,
    AttemptInterrupted,
    Blame,
    CheckpointSaved,
    Failed,
    Finished,
    Phase,
    Resumed,
    StepLogged,
)
from app.contracts.order import TrainingOrder
from app.hashing import hash_folder
from worker.checkpoints import drafting, publish, verify
from worker.events import EventWriter
from worker.hashing import bundle_version
from worker.stopping import INTERRUPTED, Requests, keep_lease, lease_of


class Training:
    """A loss that each step computes from the one before, so that only a true resume gives the true series."""

    def __init__(self, order: TrainingOrder, events: EventWriter) -> None:
        self.order, self.events, self.requests = order, events, Requests()
        self.labels = order.spec.labels
        self.step, self.loss = 0, 4.0

    def run(self) -> int:
        self.requests.wait_for_training()
        self._resume()
        self.requests.listen()
        self.events.enter(Phase.TRAIN)
        while self.step < int(self.labels.get("steps", "8")):
            self._take_step()
            self._misbehave()
            every, last = int(self.labels.get("save_every", "0")), int(self.labels.get("steps", "8"))
            if self._is_asked() or (every and self.step % every == 0) or self.step == last:
                self._save()
            if self.requests.stop and self.step < last:
                self.events.write(AttemptInterrupted(step=self.step))
                return INTERRUPTED
        self._finish()
        return 0

    def _is_asked(self) -> bool:
        return self.requests.stop or self.requests.checkpoint

    def _resume(self) -> None:
        path = self.order.resume_from
        if path is not None:
            found = verify(path)
            assert found is not None
            self.step, self.loss = found.step, float((path / "state.txt").read_text())
            self.events.write(Resumed(step=self.step))

    def _take_step(self) -> None:
        time.sleep(float(self.labels.get("step_seconds", "0.005")))
        self.step, self.loss = self.step + 1, self.loss * 0.9
        figures = {"learning_rate": 1e-4, "grad_norm": 1.0, "tokens": self.step, "tokens_per_second": 1.0}
        total = int(self.labels.get("steps", "8"))
        self.events.write(
            StepLogged(
                step=self.step, total_steps=total, epoch=1.0, loss=self.loss, seconds=1.0, memory_bytes=1, **figures
            )
        )
        self.order.pulse.touch()

    def _misbehave(self) -> None:
        is_now = self.step == int(self.labels.get("at", "-1"))
        if not is_now or (self.order.epoch > 2 and "always" not in self.labels):
            return
        match self.labels["does"]:
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leaves":
                os._exit(0)
            case "hangs":
                time.sleep(3600)
            case "fills the GPU":
                self.events.write(Failed(blame=Blame.USER, code="out_of_gpu_memory", message="not enough memory"))
                os._exit(1)
            case "fills the disk":
                self.events.write(Failed(blame=Blame.SYSTEM, code="disk_full", message="no room", hint="make some"))
                os._exit(1)

    def _save(self) -> None:
        self.requests.checkpoint = False
        folder, attempt = self.order.checkpoints, self.order.epoch
        with drafting(folder, step=self.step, attempt=attempt) as draft:
            (draft / "state.txt").write_text(repr(self.loss))
            saved = publish(draft, folder, step=self.step, attempt=attempt)
        event = CheckpointSaved(
            step=self.step, path=str(saved.path), bytes=saved.bytes, sha256=saved.sha256, seconds=0.0
        )
        self.events.write(event)

    def _finish(self) -> None:
        if self.labels.get("does") == "cannot save":
            self.events.write(Failed(blame=Blame.SYSTEM, code="save_failed", message="it could not be saved"))
            os._exit(1)
        folder = self.order.adapter_dir
        folder.mkdir()
        (folder / "weights").write_text(repr(self.loss))
        saved = {"path": str(folder), "version": bundle_version(folder), "bytes": 1, "base_model": "org/model"}
        for number in range(int(self.labels.get("artifacts", "0"))):
            self._save_artifact(f"export-{number}")
        self.events.write(
            AdapterSaved(**saved, base_revision=None, adapter_kind="lora", rank=1, trainable_parameters=1)
        )
        self.events.write(Finished(steps=self.step, train_seconds=1.0, final_loss=self.loss, tokens=self.step))

    def _save_artifact(self, name: str) -> None:
        folder = self.order.adapter_dir.with_name(name)
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "1.gguf").write_text(name)
        self.events.write(
            ArtifactSaved(
                artifact_kind="export", name=name, path=str(folder), sha256=hash_folder(folder), bytes=len(name)
            )
        )


def main() -> int:
    lease = lease_of(dict(os.environ))
    if lease is not None:
        keep_lease(*lease)
    order = TrainingOrder.model_validate_json(Path(sys.argv[1]).read_text())
    with EventWriter(order.events) as events:
        return Training(order, events).run()


if __name__ == "__main__":
    sys.exit(main())
