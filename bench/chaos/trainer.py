"""`python -m bench.chaos.trainer ORDER.json`: one training attempt, as `worker.training` makes it, of a tiny network.

The order, the events, the checkpoints, the signals and the lease are those of the real trainer; only what is trained
is small enough to be started hundreds of times. Labels of the job say how it trains and how it misbehaves:

    step_seconds   sleep after each step
    misbehave      see `Misbehaviour`; `misbehave_at` is the step, `misbehave_always` "1": in every attempt
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from app.contracts.events import (
    AdapterSaved,
    AttemptInterrupted,
    CheckpointRemoved,
    CheckpointSaved,
    Finished,
    Phase,
    Resumed,
    StepLogged,
)
from app.contracts.order import TrainingOrder
from bench.chaos.journal import Journal
from bench.chaos.misbehaviour import Misbehaviour
from worker.checkpoints import drafting, noticing_a_full_disk, prune, publish, sweep
from worker.events import EventWriter
from worker.failures import guarded
from worker.hashing import bundle_version
from worker.stopping import INTERRUPTED, Requests, keep_lease, lease_of
from worker.training.progress import StepCounters, read_progress
from worker.training.schedule import SaveSchedule

TOKENS_A_STEP = 32


def main() -> int:
    lease = lease_of(dict(os.environ))
    if lease is not None:
        keep_lease(*lease)
    requests, code = Requests(), 0
    requests.wait_for_training()
    order = TrainingOrder.model_validate_json(Path(sys.argv[1]).read_text())
    journal = Journal(Path(os.environ["CHAOS_RUN"]) / "journal.jsonl", order.job_id, order.epoch)
    journal.write("born", 0, time.monotonic())

    def train() -> None:
        nonlocal code
        code = 0 if Attempt(order, events, requests, journal).run() else INTERRUPTED

    with EventWriter(order.events) as events:
        result = guarded(train, events, []) or code
        journal.write("end", 0, time.monotonic())
        return result


@dataclass
class Attempt:
    """Training from the first step, or behind the order's checkpoint."""

    order: TrainingOrder
    events: EventWriter
    requests: Requests
    journal: Journal
    saved_step: int | None = None
    final_loss: float | None = None
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def run(self) -> bool:
        """Whether it came to its end; else it stopped behind a checkpoint, as it was asked to."""
        from bench.chaos.network import Course  # torch takes a moment, as the real trainer's libraries do

        training = self.order.spec.training
        self.events.enter(Phase.LOAD)
        self.course = Course(training.seed, training.max_steps or 0)
        self.schedule = SaveSchedule(training.save_steps)
        sweep(self.order.checkpoints)
        self.resume()
        self.events.enter(Phase.TRAIN)
        self.schedule.begin(time.monotonic())
        self.requests.listen()
        self.began = time.monotonic()
        misbehaviour = Misbehaviour.of(self.order)
        while self.course.step < self.course.total:
            self.take_step()
            misbehaviour.act_at(self.course.step)
            if self.requests.stop and self.course.step < self.course.total:
                self.events.write(AttemptInterrupted(step=self.course.step))
                return False
        self.finish()
        return True

    def resume(self) -> None:
        if self.order.resume_from is None:
            return
        self.course.load(self.order.resume_from)
        progress = read_progress(self.order.resume_from)
        self.saved_step, self.final_loss, self.seconds_before = progress.step, progress.final_loss, progress.seconds
        self.events.write(Resumed(step=progress.step))

    def take_step(self) -> None:
        began = time.monotonic()
        taken = self.course.take_step()
        time.sleep(float(self.order.spec.labels.get("step_seconds", "0.05")))
        self.final_loss = taken.loss
        self.journal.write("step", taken.step, began)
        self.order.pulse.touch()
        self.events.write(
            StepLogged(
                step=taken.step,
                total_steps=self.course.total,
                epoch=taken.step / self.course.total,
                loss=taken.loss,
                learning_rate=taken.learning_rate,
                grad_norm=None,
                tokens=taken.step * TOKENS_A_STEP,
                tokens_per_second=TOKENS_A_STEP / (time.monotonic() - began),
                seconds=self.seconds,
                memory_bytes=0,
            )
        )
        is_wanted = self.requests.checkpoint or self.requests.stop or taken.step == self.course.total
        if is_wanted or self.schedule.is_due(taken.step, time.monotonic()):
            self.save()

    @property
    def seconds(self) -> float:
        return round(self.seconds_before + time.monotonic() - self.began, 3)

    def save(self) -> None:
        self.requests.checkpoint = False
        step, started, folder = self.course.step, time.monotonic(), self.order.checkpoints
        if self.saved_step == step:
            return
        with drafting(folder, step=step, attempt=self.order.epoch) as draft:
            self.course.save(draft)
            self.progress().write(draft)
            saved = publish(draft, folder, step=step, attempt=self.order.epoch)
        self.saved_step = step
        removed = prune(folder, self.order.spec.training.save_total_limit)
        now = time.monotonic()
        self.schedule.saved(now, now - started)
        path, seconds = str(saved.path), round(now - started, 3)
        self.events.write(
            CheckpointSaved(step=step, path=path, bytes=saved.bytes, sha256=saved.sha256, seconds=seconds)
        )
        for gone in removed:
            self.events.write(CheckpointRemoved(step=gone.step, path=str(gone.path)))

    def progress(self) -> StepCounters:
        step = self.course.step
        return StepCounters(
            step=step,
            tokens=step * TOKENS_A_STEP,
            seconds=self.seconds,
            final_loss=self.final_loss,
            bad_steps=0,
            window_loss=0.0,
            logged_step=step,
            total_loss=0.0,
            owes_evaluation=False,
        )

    def finish(self) -> None:
        self.events.enter(Phase.SAVE)
        folder, steps = self.order.adapter_dir, self.course.total
        with noticing_a_full_disk(folder.parent):
            write_bundle(folder, self.course.weights(), steps)
        self.events.write(
            AdapterSaved(
                path=str(folder),
                version=bundle_version(folder),
                bytes=sum(path.stat().st_size for path in folder.iterdir()),
                base_model=self.order.base.source,
                base_revision=None,
                adapter_kind="lora",
                rank=self.order.spec.lora.r,
                trainable_parameters=sum(parameter.numel() for parameter in self.course.model.parameters()),
            )
        )
        self.events.write(
            Finished(steps=steps, train_seconds=self.seconds, final_loss=self.final_loss, tokens=steps * TOKENS_A_STEP)
        )


def write_bundle(folder: Path, weights: bytes, steps: int) -> None:
    """Nothing in it tells one run from another, so that its hash is that of a quiet run."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text(json.dumps({"steps": steps}))


if __name__ == "__main__":
    sys.exit(main())
