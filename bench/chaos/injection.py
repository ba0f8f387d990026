"""Inside the processes under test: delays and deaths at named windows, and a clock that can be set wrong.

A window is a moment between two writes. Production code has no switch for it: its functions are wrapped while their
modules are imported. `CHAOS_RUN` names the folder of a run, which holds

    armed    the name of a window: the process that gets there next takes the file away and kills itself
    clock    a double of this machine: seconds to add to the wall clock, read at every look at it
    deaths   a line for every such death
"""

import functools
import importlib.abc
import importlib.util
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
# Where most of the time is: a step must not wait for a die that is cast at each of them.
EVENTS_OF_EVERY_STEP = ("step", "rows")
ROLES = {"uvicorn": "api", "tunesmith.train": "worker", "tunesmith.check": "checker", "worker.checking": "checking"}
ROLES |= {"bench.chaos.trainer": "trainer"}

# The functions that stand between two windows, by module. A window is called ROLE.FUNCTION.before or .after, and those
# of checkpoints checkpoint.FUNCTION.before or .after.
FUNCTIONS = {
    "sqlalchemy.orm.session": ("Session.commit",),
    "app.jobs.queue.notifier": ("CeleryNotifier.notify",),
    "app.jobs.queue.claims": ("claim", "finish", "take_back"),
    "worker.supervising.orders": ("write_check", "write_training"),
    "worker.supervising.attempt": ("spawn",),
    "worker.supervising.lifecycle": ("read_left_over", "place_results"),
    "worker.supervising.trainings": ("choose_start",),
}
CHECKPOINT_FUNCTIONS = ("publish", "prune", "_write", "_remove")

run = Path(os.environ.get("CHAOS_RUN", os.devnull))
jitter_seconds = float(os.environ.get("CHAOS_JITTER_MS", "0")) / 1000
rng = random.Random()  # not the one that a training draws from


def window(name: str) -> None:
    """Wait a little, mostly very little, and die here if that was asked for."""
    if jitter_seconds:
        time.sleep(jitter_seconds * rng.random() ** 3)
    armed = run / "armed"
    try:
        if armed.read_text() != name:
            return
        armed.rename(run / f"taken-{os.getpid()}")
    except OSError:
        return
    with (run / "deaths").open("a") as deaths:
        deaths.write(f"{name} {os.getpid()} {time.monotonic()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def around(name: str, function: Function) -> Function:
    """The function between two windows: `name.before` and `name.after`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        window(f"{name}.before")
        result = function(*args, **kwargs)
        window(f"{name}.after")
        return result

    return wrapped  # type: ignore[return-value]


def wrap(prefix: str, paths: Sequence[str], module: ModuleType) -> None:
    for path in paths:
        kind, _, name = path.rpartition(".")
        owner = getattr(module, kind) if kind else module
        setattr(owner, name, around(f"{prefix}.{name}", getattr(owner, name)))


def role() -> str:
    """Which process of the stack this is; its arguments are not in `sys.argv` yet."""
    line = Path("/proc/self/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    return next((name for word, name in ROLES.items() if word in line), "other")


def wrap_events(module: ModuleType) -> None:
    write = module.EventWriter.write

    def wrapped(self: Any, event: Any) -> None:
        if event.kind in EVENTS_OF_EVERY_STEP:
            write(self, event)
        else:
            around(f"event.{event.kind}", write)(self, event)

    module.EventWriter.write = wrapped


def patches() -> dict[str, Callable[[ModuleType], None]]:
    """What is done to a module once it is there, before anybody imports a name from it."""
    me = role()
    return {
        **{name: functools.partial(wrap, me, paths) for name, paths in FUNCTIONS.items()},
        "worker.checkpoints": functools.partial(wrap, "checkpoint", CHECKPOINT_FUNCTIONS),
        "worker.events": wrap_events,
        "app.database.connection": lambda module: setattr(module, "utc_now", wrong_utc_now),
        "app.contracts.events": lambda module: setattr(module, "datetime", WrongDatetime),
    }


class Patching(importlib.abc.MetaPathFinder):
    """Finds the modules that are to be patched, each once, and patches them behind their import."""

    def __init__(self, pending: dict[str, Callable[[ModuleType], None]]) -> None:
        self._pending = pending

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        patch = self._pending.pop(fullname, None)
        spec = importlib.util.find_spec(fullname) if patch is not None else None
        if patch is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class Clock:
    """The wall clock as this process sees it. `CHAOS_CLOCK_SIGN` -1: what goes ahead for others goes back for it."""

    def __init__(self) -> None:
        self._sign = float(os.environ.get("CHAOS_CLOCK_SIGN", "1"))
        self._real = time.time
        with (run / "clock").open("rb") as file:
            self._shift = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)

    def time(self) -> float:
        shift: float = struct.unpack("d", self._shift[:8])[0]
        return self._real() + self._sign * shift

    def time_ns(self) -> int:
        return int(self.time() * 1e9)


class WrongDatetime(datetime):
    """`datetime.now` by the wrong clock."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(time.time(), tz)


def wrong_utc_now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def install() -> None:
    clock = Clock()
    time.time, time.time_ns = clock.time, clock.time_ns
    pending = patches()
    if os.environ.get("CHAOS_NAIVE") == "1":
        from bench.chaos import naive

        pending |= naive.patches()
    sys.meta_path.insert(0, Patching(pending))
