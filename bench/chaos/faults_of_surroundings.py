"""Faults of what is around the service: the broker, the clock, others who take its slot, its users in a hurry."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import redis

from app.jobs.queue.notifier import QUEUES, TASK, make_celery
from app.jobs.states import Stage
from bench.chaos.injected import Injected
from bench.chaos.scene import Scene

BELLS = 50
# Takes the lock of a file as soon as it is free, holds it for some seconds, and may be killed meanwhile.
TAKER = (
    "import fcntl, sys, time; f = open(sys.argv[1], 'rb+'); d = time.monotonic() + 15\n"
    "while True:\n"
    "    try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); break\n"
    "    except BlockingIOError: time.sleep(0.001)\n"
    "    if time.monotonic() > d: sys.exit(3)\n"
    "print('taken', flush=True); time.sleep(float(sys.argv[2]))"
)


def _broker(scene: Scene) -> redis.Redis:
    places = scene.stack.places
    if places.postgres is None:
        return redis.Redis(unix_socket_path=str(scene.stack.home / "run" / "broker.sock"), socket_timeout=5)
    return redis.Redis.from_url(places.broker_url, socket_timeout=5)


def broker_kill(scene: Scene) -> Injected | None:
    """It comes back empty."""
    broker = scene.one_of("broker")
    if broker is None:
        return None
    injected = Injected("broker_kill", time.monotonic())
    broker.kill()
    time.sleep(0.3)

    def answers() -> bool:
        try:
            return bool(_broker(scene).ping())
        except redis.RedisError:
            return False

    injected.back_at = scene.wait_until(answers, 90)
    return injected


def broker_freeze(scene: Scene) -> Injected | None:
    broker = scene.one_of("broker")
    if broker is None:
        return None
    seconds = scene.rng.uniform(2, 12)
    injected = Injected("broker_freeze", time.monotonic(), note=f"{seconds:.0f} s")
    broker.send(signal.SIGSTOP)
    scene.hold(seconds)
    broker.send(signal.SIGCONT)
    return injected


def notifications_lost(scene: Scene) -> Injected | None:
    """Every message that waits is gone, and every queue."""
    injected = Injected("notifications_lost", time.monotonic())
    try:
        with _broker(scene) as broker:
            for _ in range(20):
                keys = list(broker.scan_iter(f"{scene.stack.places.broker_prefix}*"))
                if keys:
                    broker.delete(*keys)
                time.sleep(0.05)
    except redis.RedisError:
        return None
    return injected


def notified_often(scene: Scene) -> Injected | None:
    injected = Injected("notified_often", time.monotonic())
    celery = make_celery(scene.stack.places.broker_url, scene.stack.places.broker_prefix)
    try:
        for stage in Stage:
            for _ in range(BELLS):
                celery.send_task(TASK, args=[stage.value], queue=QUEUES[stage], retry=False)
    except Exception as error:  # noqa: BLE001  the broker may be down for another fault's sake
        return Injected("notified_often", injected.at, note=type(error).__name__)
    finally:
        celery.close()
    return injected


def clock_stepped(scene: Scene) -> Injected | None:
    """By an hour, ahead for some workers and back for others; and back again after a while."""
    shift = scene.rng.choice((-3600.0, 3600.0, -120.0))
    injected = Injected("clock_stepped", time.monotonic(), note=f"{shift:+.0f} s")
    scene.stack.set_clock(shift)
    scene.hold(scene.rng.uniform(3, 12))
    scene.stack.set_clock(0.0)
    return injected


def slot_taken(scene: Scene) -> Injected | None:
    """Somebody takes the slot of a worker that was killed, before it is back."""
    trainer = scene.trainer()
    worker, guardian = (scene.worker_of(trainer), scene.guardian_of(trainer)) if trainer else (None, None)
    if trainer is None or worker is None or guardian is None:
        return None
    lock = _slot_of(trainer.pid)
    if lock is None:
        return None
    seconds = scene.rng.choice((4.0, 30.0))
    taker = subprocess.Popen([sys.executable, "-S", "-c", TAKER, lock, str(seconds)], stdout=subprocess.PIPE)
    injected = Injected("slot_taken", time.monotonic(), trainer.job, trainer.pid, f"{seconds:.0f} s")
    for victim in (worker, guardian, trainer):
        victim.kill()
    assert taker.stdout is not None
    is_taken = taker.stdout.readline() == b"taken\n"
    began = time.monotonic()
    if is_taken and scene.wait_until(lambda: _slot_in_use_beside(scene, lock), min(seconds, 15.0) - 1) is not None:
        injected.note += ": A TRAINER RAN BESIDE IT"
    taker.wait(seconds + 20)
    injected.note += f", taken: {is_taken}, held {time.monotonic() - began:.0f} s, exit {taker.returncode}"
    return injected


def _slot_of(pid: int) -> str | None:
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return None
    return next((link for link in links if link.endswith(".lock") and "/slots/" in link), None)


def _slot_in_use_beside(scene: Scene, lock: str) -> bool:
    return any(_slot_of(trainer.pid) == lock for trainer in scene.stack.processes("trainer"))


def is_lock_free(path: str) -> bool:
    with open(path, "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
