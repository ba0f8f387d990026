"""Injects faults into the real service while it works, and says whether anything was lost. Prints one JSON document.

usage: python -m bench.chaos [--minutes 5] [--backend embedded|services] [--seed 1] [--naive] [--faults a,b] ...

Exit code 1 when an invariant was broken. Needs to be root for some faults (a disk that is full, a database that cannot
be written); they are left out elsewhere. "services" needs PostgreSQL and Redis on their ports of this host.
`--naive` takes away what keeps two trainings apart: such a run has to fail, or the harness sees nothing.
"""

import argparse
import dataclasses
import itertools
import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread
from typing import Any

from bench.chaos import faults, figures, journal, verdicts
from bench.chaos.customers import Customers
from bench.chaos.faults_of_surroundings import is_lock_free
from bench.chaos.plans import SLOW, USUAL, Planner
from bench.chaos.scene import Scene
from bench.chaos.stack import Stack, running, stop

LOOK_SECONDS = 0.3
DRAIN_SECONDS = 240.0
SETTLE_SECONDS = 15.0
FAULTS_AT_ONCE = 2
FIRST_STEP_SECONDS = 120.0
# Without what a naive run lacks, each of these leaves a training behind that nobody ends.
NAIVE_FAULTS = ("worker_kill", "worker_freeze")
LONGEST_FAULT_SECONDS = 120.0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left running
    say(f"seed {options.seed}")
    with running(
        options.backend,
        jitter_ms=options.jitter_ms,
        is_naive=options.naive,
        has_second=not options.one_worker,
        max_attempts=options.max_attempts,
        say=say,
    ) as stack:
        customers = Customers(
            stack.url, Planner(random.Random(options.seed), tuple(options.plans.split(","))), options.jobs
        )
        scene = Scene(stack, customers, random.Random(options.seed + 1), points_with=options.points)
        began = time.monotonic()
        work(scene, options)
        broken, report = decide(scene, is_naive=options.naive)
        report["minutes"] = round((time.monotonic() - began) / 60, 2)
        if options.keep:
            keep(stack, Path(options.keep))
    chosen = {name: value for name, value in vars(options).items() if name not in ("faults", "plans")}
    is_broken = any(broken.values())
    print(json.dumps({"options": chosen, "is_broken": is_broken, **report, "broken": broken}, indent=1))
    return 1 if is_broken else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults; the queue is drained behind them")
    parser.add_argument("--backend", choices=("embedded", "services"), default="embedded")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--naive", action="store_true")
    parser.add_argument(
        "--faults", help="names with commas between them; default: all, of a naive run the telling ones"
    )
    parser.add_argument("--plans", help="kinds of job to choose from, with commas between them")
    parser.add_argument("--points", default="", help="of the crash points only those whose names hold this")
    parser.add_argument("--max-attempts", type=int, default=100, help="faults of the harness are not the job's")
    parser.add_argument("--jitter-ms", type=int, default=60, help="most of the delay at each window")
    parser.add_argument("--pause-seconds", type=float, default=4.0, help="mean time between two faults")
    parser.add_argument("--jobs", type=int, default=4, help="how many are alive at a time")
    parser.add_argument("--one-worker", action="store_true")
    parser.add_argument("--keep", help="a folder that logs and job folders are copied to")
    options = parser.parse_args()
    options.faults = options.faults or ",".join(NAIVE_FAULTS if options.naive else faults.NAMES)
    options.plans = options.plans or (SLOW if options.naive else USUAL)
    unknown = set(options.faults.split(",")) - set(faults.NAMES)
    if unknown:
        parser.error(f"unknown faults {sorted(unknown)}; known are {', '.join(faults.NAMES)}")
    return options


def work(scene: Scene, options: argparse.Namespace) -> None:
    """Jobs; faults for so many minutes from the first step on; then jobs alone until all have ended."""
    done = Event()
    users = Thread(target=serve, args=(scene, done), daemon=True)
    users.start()
    scene.wait_until(lambda: any(order.step for order in scene.customers.orders), FIRST_STEP_SECONDS)
    inject_until(scene, options, time.monotonic() + options.minutes * 60)
    scene.over.set()
    scene.stack.set_clock(0.0)
    for process in scene.stack.processes():
        process.send(signal.SIGCONT)
    say("no more faults: the queue is drained")
    drained = scene.wait_until(lambda: not scene.customers.alive(), DRAIN_SECONDS)
    say("every job has ended" if drained else f"{len(scene.customers.alive())} jobs have not ended")
    done.set()
    users.join(60)


def serve(scene: Scene, done: Event) -> None:
    while not done.wait(LOOK_SECONDS):
        scene.customers.round(may_order=not scene.over.is_set())


def inject_until(scene: Scene, options: argparse.Namespace, deadline: float) -> None:
    """Every kind once, in an order of chance, and again. A fault that lasts does not keep the next one waiting."""
    cards = faults.deck(options.faults.split(","), options.backend)
    deck: list[str] = []
    running_ones: list[Thread] = []
    for number in itertools.count():
        time.sleep(scene.rng.expovariate(1 / options.pause_seconds))
        running_ones = [thread for thread in running_ones if thread.is_alive()]
        if time.monotonic() > deadline:
            break
        if len(running_ones) < FAULTS_AT_ONCE:
            deck = deck or scene.rng.sample(cards, len(cards))
            own_scene = dataclasses.replace(scene, rng=random.Random(f"{options.seed} {number}"))
            running_ones.append(Thread(target=inject_one, args=(own_scene, deck.pop()), daemon=True))
            running_ones[-1].start()
    for thread in running_ones:
        thread.join(LONGEST_FAULT_SECONDS)


def inject_one(scene: Scene, name: str) -> None:
    began = time.monotonic()
    try:
        is_injected = faults.inject(scene, name)
    except Exception as error:  # noqa: BLE001  a fault that meets another one's may fail itself
        say(f"{name} could not be injected: {type(error).__name__}: {error}")
    else:
        say(f"{name}{'' if is_injected else ': nothing to hit'} ({time.monotonic() - began:.1f} s)")


def decide(scene: Scene, *, is_naive: bool) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Look at everything while the service runs, then end it and look at what is left."""
    stack, customers = scene.stack, scene.customers
    idle = ("trainer", "checking", "guardian of trainer", "guardian of checking", "orphan")
    scene.wait_until(lambda: not stack.processes(*idle), SETTLE_SECONDS)
    orphans = [f"before the end: {one.role} {one.pid} {one.line[-120:]}" for one in stack.processes(*idle)]
    torn = frozenset(one.job for one in scene.injected if one.kind == "checkpoint_torn")
    broken = verdicts.Judge(stack, customers, torn).findings()
    broken["beside_a_foreign_holder"] = [one.note for one in scene.injected if "BESIDE" in one.note]
    stop(stack)
    scene.wait_until(lambda: not stack.processes(), SETTLE_SECONDS)
    orphans += [f"after the end: {one.role} {one.pid} {one.line[-120:]}" for one in stack.processes()]
    locks = [str(path) for path in (stack.home / "run" / "slots").glob("*.lock")]
    if is_naive:  # it has none to hold, which proves nothing
        broken.pop("trainer_without_slot")
    broken["orphan_processes"] = orphans
    broken["slots_held_by_nobody"] = [path for path in locks if not is_lock_free(path)]
    lives = journal.lives(journal.read(stack.folder / "journal.jsonl"))
    steps = sum(len(life.steps) for life in lives)
    redone = journal.repeated_steps(lives)
    report = {
        "jobs": dict(Counter(order.status for order in customers.orders)),
        "plans": dict(Counter(order.plan.name for order in customers.orders)),
        "training_attempts": len(lives),
        "steps": steps,
        "redone_steps": redone,
        "faults": sum(1 for _ in scene.injected),
        "kinds": figures.by_kind(scene.injected, lives),
        "crash_points": dict(Counter(one.note for one in scene.injected if one.kind == "crash_point")),
        "answers": dict(customers.answers),
        "torn_checkpoints_left": verdicts.torn_checkpoints(stack.home),
    }
    return broken, report


def keep(stack: Stack, target: Path) -> None:
    """What tells how something was broken."""
    import shutil

    shutil.copytree(
        stack.folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("disk.img", "models", "*.sock", "cache")
    )


if __name__ == "__main__":
    sys.exit(main())
