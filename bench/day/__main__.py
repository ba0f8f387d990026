"""A day of a team's service in fast-forward, with all that can go wrong in it. Prints one JSON object.

usage: python -m bench.day WORK_DIR [--jobs 500] [--seed 1] [--minutes 12] [--pause-seconds 3]

Five projects submit unequal loads of equal jobs by REST, with keys. Three training workers on two simulated hosts,
which share no folder, work on them, while processes are killed at random and database, broker and store are cut off,
slowed and restarted. Then it is looked whether each job has ended once, whether projects have begun equally many
trainings while all had some waiting, whether a secret is in any output, whether a key was answered a row of another
project, and whether the audit has one entry for each change. Exit code 1: something was broken; `broken` says what.

The trainer is `tests.support.stand_in_trainer`, which has the real trainer's events, checkpoints and signals and
computes a series instead of a model, and most checks are `bench.day.stand_in_check`: what is tried is the queue, the
store and the borders between projects. PostgreSQL and Redis have to answer on their ports of this host. They are not
restarted themselves, because others may use them: proxies before them end all connections and refuse new ones. Needs
root, for host names of their own.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.accounts import commands
from bench.chaos.customers import ENDED
from bench.day import mishaps
from bench.day.findings import Findings
from bench.day.hosts import HOSTS, TRAINERS, Day, a_day
from bench.day.tenants import Tenant
from tests.support.webhook_receiver import Receiver, receiving

# The share of all jobs that each project submits; every second project has a webhook.
LOADS = {"red": 0.4, "green": 0.25, "blue": 0.15, "white": 0.12, "black": 0.08}
# Of the jobs, those that wait before the first training begins. The others come while trainings run.
FIRST_SHARE = 0.8
TOLD_SECONDS = 240.0
# Answers of the receivers of webhooks that make the service send again.
ILL_ANSWERS = [500, 503, 500]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    options = parse()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with receiving() as receiver, a_day(work) as day:
        began = time.monotonic()
        tenants = make_tenants(day, receiver, options.seed)
        report, findings = live(day, tenants, options)
        receiver.answers.clear()
        report["minutes"] = round((time.monotonic() - began) / 60, 2)
        day.end()  # so that nothing changes any more
        broken = findings.all()
    figures = {**report, **figures_of(findings)}
    is_broken = any(broken.values())
    chosen = {name: value for name, value in vars(options).items() if name != "work"}
    print(json.dumps({"options": chosen, "is_broken": is_broken, **figures, "broken": broken}, indent=1))
    return 1 if is_broken else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=12.0, help="for all jobs to end")
    parser.add_argument("--pause-seconds", type=float, default=3.0, help="mean time between two mishaps")
    return parser.parse_args()


def make_tenants(day: Day, receiver: Receiver, seed: int) -> list[Tenant]:
    """Projects with keys that can do all but administrate, and what each has before anything fails."""
    tenants = []
    for project in LOADS:
        made = commands.create(day.settings, {"name": f"of {project}", "project": project})
        chance = random.Random(f"{seed} {project}")
        canaries = {**day.canaries, f"token-of-{project}": f"CANARY-{project}-{chance.getrandbits(64):x}"}
        canaries[f"key-of-{project}"] = made.key
        tenants.append(Tenant(project, made.key, day.url, chance, canaries))
    for tenant in tenants[::2]:
        tenant.receiver = receiver
    for tenant in tenants:
        tenant.settle()
    receiver.answers.extend(ILL_ANSWERS)
    return tenants


def live(day: Day, tenants: list[Tenant], options: argparse.Namespace) -> tuple[dict[str, Any], Findings]:
    """Let the day happen. Returns what went wrong in it, and what is to be looked at."""
    over, injected, lines = threading.Event(), Counter[str](), set[str]()
    chance = random.Random(options.seed)
    surroundings = [
        threading.Thread(target=inject, args=(day, chance, options.pause_seconds, over, injected)),
        threading.Thread(target=watch, args=(day, over, lines)),
    ]
    with running(surroundings, over):
        counts = {tenant: max(2, round(LOADS[tenant.project] * options.jobs)) for tenant in tenants}
        first = {tenant: max(1, round(FIRST_SHARE * count)) for tenant, count in counts.items()}
        for tenant in tenants:  # one after another, the largest first: whose jobs are the oldest must not matter
            tenant.submit(first[tenant])
        say("the first jobs are submitted")
        deadline = time.monotonic() + options.minutes * 60
        for host in HOSTS:
            day.add_worker(host, "check")
        until(deadline, lambda: "validating" not in day.statuses(), "the first jobs are checked")
        for host, slot in TRAINERS:
            day.add_worker(host, "train", slot)
        users = [threading.Thread(target=one.work, args=(tenants, counts[one] - first[one])) for one in tenants]
        with running(users, *(tenant.over for tenant in tenants)):
            total = sum(counts.values())
            until(deadline, lambda: sum(day.statuses()[one] for one in ENDED) == total, "all jobs have ended")
            over.set()
            told = time.monotonic() + TOLD_SECONDS
            until(told, lambda: all(tenant.knows_all_ends for tenant in tenants), "all ends are told and seen")
    for tenant in tenants:
        tenant.download()
    ordered = {tenant.project: count for tenant, count in counts.items()}
    return {"mishaps": dict(injected)}, Findings(day, tenants, ordered, lines)


@contextmanager
def running(threads: list[threading.Thread], *over: threading.Event) -> Iterator[None]:
    """Threads that are told at the end that it is over, and waited for."""
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for event in over:
            event.set()
        for thread in threads:
            thread.join()


def inject(day: Day, chance: random.Random, pause_seconds: float, over: threading.Event, done: Counter[str]) -> None:
    """One mishap after another, each kind equally often."""
    kinds = mishaps.all_kinds(day, chance)
    deck: list[str] = []
    while not over.wait(chance.expovariate(1 / pause_seconds)):
        deck = deck or chance.sample(sorted(kinds), len(kinds))
        name = deck.pop()
        done[name] += kinds[name]()
        say(name)


def watch(day: Day, over: threading.Event, lines: set[str]) -> None:
    """See what the kernel shows everybody of processes."""
    while not over.wait(1.0):
        lines.update(one.line for one in day.processes())


def until(deadline: float, is_there: Callable[[], bool], what: str) -> None:
    """Wait for something, but not for ever: what is not there in time is found at the end."""
    while not is_there() and time.monotonic() < deadline:
        time.sleep(0.5)
    say(what if is_there() else f"it is not so in time that {what}")


def figures_of(findings: Findings) -> dict[str, Any]:
    attempts = Counter(f"{one['stage']}: {one['outcome']}" for one in findings.rows["attempts"])
    outputs = [len(content) for _, content in findings.outputs()]
    return {
        "jobs": dict(Counter(job["status"] for job in findings.jobs.values())),
        "jobs_of_projects": dict(Counter(job["project"] for job in findings.jobs.values())),
        "begun_while_all_waited": dict(findings.begun),
        "attempts": dict(attempts),
        "hosts": dict(Counter(one["worker"] for one in findings.rows["attempts"])),
        "answers": dict(sum((tenant.answers for tenant in findings.tenants), Counter())),
        "ids_seen": sum(len(tenant.ids) for tenant in findings.tenants),
        "messages": sum(len(tenant.messages) for tenant in findings.tenants),
        "deliveries": len(findings.rows["webhook_deliveries"]),
        "audit_entries": dict(Counter(one["action"] for one in findings.rows["audit"])),
        "outputs_searched": len(outputs),
        "bytes_searched": sum(outputs),
    }


if __name__ == "__main__":
    sys.exit(main())
