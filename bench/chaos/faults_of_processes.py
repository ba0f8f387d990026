"""Faults of processes: killed, frozen, asked to end, dying at a chosen line."""

import signal
import time
from collections.abc import Sequence

from bench.chaos.injected import Injected
from bench.chaos.processes import Process
from bench.chaos.scene import Scene
from bench.chaos.stack import LEASE_SECONDS

BACK_SECONDS = 90.0
# Windows of `bench.chaos.injection` at which a process dies by itself when it is asked to.
CRASH_POINTS = (
    "api.commit.before", "api.commit.after", "api.notify.before",
    "checker.claim.after", "checker.spawn.before", "checker.spawn.after", "checker.finish.before",
    "checker.finish.after", "checker.write_check.after",
    "worker.claim.before", "worker.claim.after", "worker.commit.before", "worker.commit.after",
    "worker.read_left_over.after", "worker.choose_start.before", "worker.choose_start.after",
    "worker.write_training.after", "worker.spawn.before", "worker.spawn.after", "worker.place_results.before",
    "worker.place_results.after",
    "worker.finish.before", "worker.finish.after", "worker.take_back.before", "worker.take_back.after",
    "worker.notify.before", "checkpoint.publish.before", "checkpoint.publish.after", "checkpoint._write.before",
    "checkpoint._write.after", "checkpoint.prune.before", "checkpoint.prune.after", "checkpoint._remove.before",
    "checkpoint._remove.after", "event.checkpoint.before", "event.checkpoint.after",
    "event.checkpoint_removed.before", "event.checkpoint_removed.after", "event.resumed.before",
    "event.resumed.after", "event.adapter.before", "event.adapter.after", "event.finished.before",
    "event.finished.after", "event.checked.before", "event.checked.after",
)  # fmt: skip


def _hit(kind: str, trainer: Process | None, victims: Sequence[Process | None], number: int) -> Injected | None:
    """Send a signal to all of them at once; None where one of them is not there."""
    there = [victim for victim in victims if victim is not None]
    if not there or len(there) < len(victims):
        return None
    injected = Injected(kind, time.monotonic(), *((trainer.job, trainer.pid) if trainer else (None, None)))
    is_hit = [victim.send(number) for victim in there]
    return injected if all(is_hit) else None


def api_kill(scene: Scene) -> Injected | None:
    injected = _hit("api_kill", None, [scene.one_of("api")], signal.SIGKILL)
    if injected is not None:
        time.sleep(0.2)
        injected.back_at = scene.wait_until(scene.stack.is_ready, BACK_SECONDS)
    return injected


def worker_kill(scene: Scene) -> Injected | None:
    trainer = scene.trainer()
    worker = scene.worker_of(trainer) if trainer else scene.one_of("worker")
    return _hit("worker_kill", trainer, [worker], signal.SIGKILL)


def worker_term(scene: Scene) -> Injected | None:
    """A deploy."""
    trainer = scene.trainer()
    worker = scene.worker_of(trainer) if trainer else scene.one_of("worker")
    return _hit("worker_term", trainer, [worker], signal.SIGTERM)


def checker_kill(scene: Scene) -> Injected | None:
    return _hit("checker_kill", None, [scene.one_of("checker")], signal.SIGKILL)


def checking_kill(scene: Scene) -> Injected | None:
    return _hit("checking_kill", None, [scene.one_of("checking")], signal.SIGKILL)


def guardian_kill(scene: Scene) -> Injected | None:
    trainer = scene.trainer()
    guardian = scene.guardian_of(trainer) if trainer else None
    return _hit("guardian_kill", trainer, [guardian], signal.SIGKILL)


def service_guardian_kill(scene: Scene) -> Injected | None:
    """Of a worker itself: what `up` holds it by."""
    return _hit("service_guardian_kill", None, [scene.one_of("guardian of worker")], signal.SIGKILL)


def trainer_kill(scene: Scene) -> Injected | None:
    trainer = scene.trainer()
    return _hit("trainer_kill", trainer, [trainer], signal.SIGKILL)


def trainer_segv(scene: Scene) -> Injected | None:
    trainer = scene.trainer()
    return _hit("trainer_segv", trainer, [trainer], signal.SIGSEGV)


def worker_and_guardian_kill(scene: Scene) -> Injected | None:
    """Both at the same moment: only the kernel is left to end the trainer."""
    trainer = scene.trainer()
    both = [scene.worker_of(trainer), scene.guardian_of(trainer)] if trainer else [None]
    return _hit("worker_and_guardian_kill", trainer, both, signal.SIGKILL)


def up_kill(scene: Scene) -> Injected | None:
    """The whole of `up`; an init system starts it again."""
    injected = _hit("up_kill", scene.trainer(), [scene.one_of("up")], signal.SIGKILL)
    if injected is not None:
        time.sleep(0.5)
        injected.back_at = scene.wait_until(scene.stack.is_ready, BACK_SECONDS)
    return injected


def _freeze(
    scene: Scene, kind: str, trainer: Process | None, victims: Sequence[Process | None], seconds: float
) -> Injected | None:
    injected = _hit(kind, trainer, victims, signal.SIGSTOP)
    if injected is not None:
        scene.hold(seconds)
        injected.note = f"{seconds:.0f} s"
    for victim in victims:
        if victim is not None:
            victim.send(signal.SIGCONT)
    return injected


def worker_freeze(scene: Scene) -> Injected | None:
    """Past its lease: another has the job when it wakes up."""
    trainer = scene.trainer()
    seconds = LEASE_SECONDS + scene.rng.uniform(1, 6)
    return _freeze(scene, "worker_freeze", trainer, [scene.worker_of(trainer) if trainer else None], seconds)


def worker_nap(scene: Scene) -> Injected | None:
    """Within its lease, or about it."""
    trainer = scene.trainer()
    seconds = scene.rng.uniform(1, LEASE_SECONDS)
    return _freeze(scene, "worker_nap", trainer, [scene.worker_of(trainer) if trainer else None], seconds)


def worker_and_guardian_freeze(scene: Scene) -> Injected | None:
    """Past the lease: only its own timer ends the trainer."""
    trainer = scene.trainer()
    both = [scene.worker_of(trainer), scene.guardian_of(trainer)] if trainer else [None]
    seconds = LEASE_SECONDS + scene.rng.uniform(1, 6)
    return _freeze(scene, "worker_and_guardian_freeze", trainer, both, seconds)


def trainer_freeze(scene: Scene) -> Injected | None:
    trainer = scene.trainer()
    return _freeze(scene, "trainer_freeze", trainer, [trainer], scene.rng.choice((2.0, 5.0, 14.0)))


def crash_point(scene: Scene) -> Injected | None:
    """A process kills itself between two writes; which one does, chance and the work decide."""
    points = [point for point in CRASH_POINTS if scene.points_with in point]
    folder, point = scene.stack.folder, scene.rng.choice(points)
    armed, deaths = folder / "armed", folder / "deaths"
    before = deaths.read_text() if deaths.exists() else ""
    armed.with_suffix(".new").write_text(point)
    armed.with_suffix(".new").rename(armed)
    died = scene.wait_until(lambda: not armed.exists(), 12.0)
    armed.unlink(missing_ok=True)
    if died is None:
        return None
    scene.wait_until(lambda: deaths.exists() and deaths.read_text() != before, 2.0)
    line = (deaths.read_text() if deaths.exists() else "")[len(before) :].split()
    return Injected("crash_point", float(line[2]) if len(line) == 3 else died, note=point)
