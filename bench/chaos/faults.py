"""All kinds of fault, by name."""

import threading
from collections.abc import Callable

from bench.chaos import faults_of_processes as processes
from bench.chaos import faults_of_storage as storage
from bench.chaos import faults_of_surroundings as surroundings
from bench.chaos.injected import Injected
from bench.chaos.scene import Scene

Fault = Callable[[Scene], Injected | None]
SINGLE: dict[str, Fault] = {
    function.__name__: function
    for function in (
        processes.api_kill,
        processes.worker_kill,
        processes.worker_term,
        processes.checker_kill,
        processes.checking_kill,
        processes.guardian_kill,
        processes.service_guardian_kill,
        processes.trainer_kill,
        processes.trainer_segv,
        processes.worker_and_guardian_kill,
        processes.up_kill,
        processes.worker_freeze,
        processes.worker_nap,
        processes.worker_and_guardian_freeze,
        processes.trainer_freeze,
        processes.crash_point,
        storage.database_terminate,
        storage.database_away,
        storage.database_locked,
        storage.database_read_only,
        storage.disk_full,
        storage.events_torn,
        storage.checkpoint_torn,
        surroundings.broker_kill,
        surroundings.broker_freeze,
        surroundings.notifications_lost,
        surroundings.notified_often,
        surroundings.clock_stepped,
        surroundings.slot_taken,
    )
}
AT_ONCE = 3
# Those that are worth more than one in thirty: each death at a named line is a case of its own.
OFTEN = {"crash_point": 5, "worker_kill": 2}


def all_at_once(scene: Scene) -> Injected | None:
    """Several kinds at the same moment. Each is listed by itself."""
    names = scene.rng.sample(sorted(SINGLE), AT_ONCE)
    threads = [threading.Thread(target=inject, args=(scene, name, " with others")) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return None


def inject(scene: Scene, name: str, note: str = "") -> bool:
    """Whether there was something to hit."""
    injected = SINGLE[name](scene) if name in SINGLE else all_at_once(scene)
    if injected is not None:
        injected.note += note
        scene.tell(injected)
    return injected is not None


NAMES = (*SINGLE, "all_at_once")


ONLY = {"embedded": {"broker_kill", "broker_freeze"}, "services": {"database_terminate", "database_away"}}


def deck(chosen: list[str], backend: str) -> list[str]:
    """One of each that the backend can have, more of some. A broker that others use too is left alone."""
    foreign = {name for other, names in ONLY.items() if other != backend for name in names}
    return [name for name in chosen if name not in foreign for _ in range(OFTEN.get(name, 1))]
