"""What goes wrong during the day, at random moments: one function a kind. Nothing of it is the service's own fault."""

import random
import signal
import time
from collections.abc import Callable
from functools import partial

from bench.day.hosts import Day

# The kinds of processes that are killed, by words of their command lines.
KILLED = {
    "worker": "tunesmith.train",
    "training": "stand_in_trainer ",
    "checker": "tunesmith.check",
    "api": "app.serve",
}
SERVERS = ("database", "broker", "store")
CUT_SECONDS, SLOW_SECONDS, DELAY_SECONDS = (0.2, 3.0), (2.0, 6.0), (0.02, 0.2)


def kill(day: Day, rng: random.Random, word: str) -> bool:
    """Return whether there was such a process. Its guardian lives on, and has to end what it left."""
    found = [one for one in day.processes() if word in one.line and "guardian" not in one.line]
    return bool(found) and rng.choice(found).send(signal.SIGKILL)


def cut(day: Day, rng: random.Random, server: str) -> bool:
    """What is told of a restart: connections end, and there are no new ones for a while."""
    with day.proxies[server].cut():
        time.sleep(rng.uniform(*CUT_SECONDS))
    return True


def slow(day: Day, rng: random.Random, server: str) -> bool:
    with day.proxies[server].delayed(rng.uniform(*DELAY_SECONDS)):
        time.sleep(rng.uniform(*SLOW_SECONDS))
    return True


def restart_store(day: Day, rng: random.Random) -> bool:
    """The store's own process is killed and started again, on the same folder."""
    day.store.stop()
    time.sleep(rng.uniform(*CUT_SECONDS))
    day.store.start()
    return True


def all_kinds(day: Day, rng: random.Random) -> dict[str, Callable[[], bool]]:
    """Every kind by its name."""
    kills = {f"kill {name}": partial(kill, day, rng, word) for name, word in KILLED.items()}
    cuts = {f"cut {server}": partial(cut, day, rng, server) for server in SERVERS}
    slows = {f"slow {server}": partial(slow, day, rng, server) for server in SERVERS}
    return {**kills, **cuts, **slows, "restart store": partial(restart_store, day, rng)}
