"""Faults of what is stored: databases that are away, disks that are full, files that are torn."""

import os
import sqlite3
import subprocess
import time
from pathlib import Path

import psycopg

from bench.chaos.injected import Injected
from bench.chaos.processes import Process
from bench.chaos.scene import Scene
from bench.chaos.stack import POSTGRES


def database_terminate(scene: Scene) -> Injected | None:
    """PostgreSQL: every connection is cut, again and again for some seconds, as in a failover."""
    name = scene.stack.places.postgres
    if name is None:
        return None
    injected = Injected("database_terminate", time.monotonic())
    seconds = scene.rng.uniform(0.5, 6)
    with psycopg.connect(f"{POSTGRES}/postgres", autocommit=True) as server:
        while time.monotonic() < injected.at + seconds:
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            time.sleep(0.05)
    injected.note = f"{seconds:.0f} s"
    return injected


def database_away(scene: Scene) -> Injected | None:
    """PostgreSQL: it takes no connection for a while that may be longer than a lease."""
    name = scene.stack.places.postgres
    if name is None:
        return None
    injected = Injected("database_away", time.monotonic())
    seconds = scene.rng.choice((3.0, 8.0, 16.0))
    with psycopg.connect(f"{POSTGRES}/postgres", autocommit=True) as server:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            while time.monotonic() < injected.at + seconds:
                server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
                time.sleep(0.2)
        finally:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    injected.note = f"{seconds:.0f} s"
    return injected


def database_locked(scene: Scene) -> Injected | None:
    """Another process holds what every write needs, longer than a write waits."""
    places, seconds = scene.stack.places, scene.rng.choice((3.0, 8.0, 18.0))
    injected = Injected("database_locked", time.monotonic(), note=f"{seconds:.0f} s")
    if places.sqlite is not None:
        connection = sqlite3.connect(places.sqlite, isolation_level=None, timeout=20)
        try:
            connection.execute("BEGIN IMMEDIATE")
            scene.hold(seconds)
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return None
        finally:
            connection.close()
        return injected
    with psycopg.connect(f"{POSTGRES}/{places.postgres}") as server:
        server.execute("LOCK TABLE jobs IN EXCLUSIVE MODE")
        scene.hold(seconds)
        server.rollback()
    return injected


def database_read_only(scene: Scene) -> Injected | None:
    """SQLite: the kernel refuses every write to its files. PostgreSQL: a standby answers in place of the server."""
    places, seconds = scene.stack.places, scene.rng.uniform(2, 8)
    injected = Injected("database_read_only", time.monotonic(), note=f"{seconds:.0f} s")
    if places.sqlite is not None:
        files = [str(path) for path in places.sqlite.parent.glob(f"{places.sqlite.name}*")]
        subprocess.run(["chattr", "+i", *files], check=False, capture_output=True)
        scene.hold(seconds)
        subprocess.run(["chattr", "-i", *files], check=False, capture_output=True)
        return injected
    everybody = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with psycopg.connect(f"{POSTGRES}/postgres", autocommit=True) as server:
        server.execute(f"ALTER DATABASE {places.postgres} SET default_transaction_read_only = on")
        server.execute(everybody, [places.postgres])
        scene.hold(seconds)
        server.execute(f"ALTER DATABASE {places.postgres} RESET default_transaction_read_only")
        server.execute(everybody, [places.postgres])
    return injected


def disk_full(scene: Scene) -> Injected | None:
    """Not a byte is left where the service keeps its state, for some seconds."""
    if not scene.stack.has_own_disk:
        return None
    trainer, ballast = scene.trainer(), scene.stack.home / "ballast"
    injected = Injected("disk_full", time.monotonic(), *((trainer.job, trainer.pid) if trainer else (None, None)))
    seconds = scene.rng.uniform(2, 8)
    try:
        while time.monotonic() < injected.at + seconds:
            _fill(ballast)
            time.sleep(0.1)
    finally:
        ballast.unlink(missing_ok=True)
    injected.note = f"{seconds:.0f} s"
    return injected


def _fill(path: Path) -> None:
    """Grow a file until the disk takes no block more."""
    with path.open("ab") as file:
        size = 1 << 28
        while size >= 1 << 12:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            except OSError:
                size >>= 1


def events_torn(scene: Scene) -> Injected | None:
    """A crash of the host: the worker and its training are gone, and the end of the events file is not what was
    written."""
    return _torn(scene, "events_torn", _tear_events)


def checkpoint_torn(scene: Scene) -> Injected | None:
    """The same, with the newest checkpoint: a flipped byte, a file cut short, or one that is missing."""
    return _torn(scene, "checkpoint_torn", _tear_checkpoint)


def _torn(scene: Scene, kind: str, tear: object) -> Injected | None:
    trainer = scene.trainer()
    worker = scene.worker_of(trainer) if trainer else None
    guardian = scene.guardian_of(trainer) if trainer else None
    if trainer is None or trainer.job is None or worker is None or guardian is None:
        return None
    injected = Injected(kind, time.monotonic(), trainer.job, trainer.pid)
    order = Path(trainer.line.split()[-1])
    for victim in (worker, guardian, trainer):
        victim.kill()
    scene.wait_until(lambda: not trainer.is_alive, 5)
    assert callable(tear)
    injected.note = str(tear(scene, order, trainer))
    return injected


def _tear_events(_scene: Scene, order: Path, _trainer: Process) -> str:
    with (order.parent / "events.jsonl").open("ab") as file:
        file.write(b'\0\0\0garbage\n{"kind": "step", "at": "2026-01')
    return "garbage and half a line"


def _tear_checkpoint(scene: Scene, order: Path, _trainer: Process) -> str:
    found = sorted((order.parents[2] / "checkpoints").glob("step-*"))
    if not found:
        return "there was none"
    victim, how = found[-1] / "state.pt", scene.rng.choice(("flipped", "cut", "missing"))
    if not victim.is_file():
        return "it was not whole before"
    content = bytearray(victim.read_bytes())
    if how == "missing":
        victim.unlink()
    else:
        content[len(content) // 2] ^= 0x40
        victim.write_bytes(bytes(content if how == "flipped" else content[: len(content) // 2]))
    return f"{how}: {found[-1].name}"
