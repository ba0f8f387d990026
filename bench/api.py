"""What 500 people who poll and 200 who follow a job cost, and what reads cost as jobs and events add up; prints one
JSON object.

usage: python -m bench.api WORK_DIR [--pollers 500] [--followers 200] [--seconds 20] [--processes 1] [--keys 50]
                                    [--jobs 100000] [--events 5000000] [--database-url postgresql+psycopg://…]

The API runs alone (`python -m app.serve`) on homes below the folder; jobs are made by inserting rows, and the
heartbeats of the running one are stored as a worker stores them, once a second. The clients are one process on raw
sockets (`bench.load_generator`); `/healthz` is asked from this one, ten times a second. This part uses SQLite, and
`--seconds 0` leaves it out. Of the reads (`bench.api_reads`), two services with few and with many jobs and events are
asked in turns, so that both meet the same noise of the machine. With a database URL each has a new database of that
server, which is dropped again.

`machine` says how busy the cores were while it was measured, and with whom: figures of a machine that others used are
no more than upper bounds.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from app.accounts import commands
from app.config import Settings
from app.contracts.events import StepLogged
from app.contracts.spec import JobSpec
from app.database.connection import Database, utc_now
from app.database.migrate import upgrade
from app.jobs import service
from app.jobs.kinds import KINDS, TRAIN
from app.jobs.models import Job
from app.jobs.queue.claims import Claim, claim, record
from app.jobs.repository import append_event
from app.jobs.states import JobStatus, Stage
from app.jobs.trainings import training_columns
from bench.api_reads import FEW_EVENTS, FEW_JOBS, ROUNDS, Filled, compare, own_database
from bench.load_generator import Plan

# Of the job that is followed, before anybody follows it.
EVENTS = 1000
HEALTH_SECONDS = 0.1
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
BODY = {
    "name": "bench",
    "labels": {"team": "a"},
    "model": {"model_name": "unsloth/Llama-3.2-3B-Instruct", "max_seq_length": 2048},
    "lora": {"r": 16, "lora_alpha": 16},
    "dataset": {"source": {"hub": "mlabonne/FineTome-100k"}},
    "training": {"max_steps": 100_000, "learning_rate": 2e-4},
}
REPORT = {
    "records": 100_000,
    "tokens": 81_234_567,
    "lengths": {str(step): 17 * step for step in range(40)},
    "findings": [{"code": "long_row", "record": number, "message": "cut to 2048 tokens"} for number in range(20)],
}


def main() -> None:
    options = read_options()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "processes": options.processes}
    loads = (("polls", False, 0), ("polls_with_keys", False, options.keys), ("conditional_polls", True, 0))
    for name, is_conditional, keys in loads if options.seconds else ():
        home = Home(work / name)
        jobs, followed = home.fill_for_polls()
        clients = (options.pollers, options.followers, options.seconds)
        plan = Plan(jobs, followed.job_id, EVENTS, *clients, is_conditional, home.make_keys(keys))
        with serving(home.settings, options.processes) as api, heartbeats(home.database, followed):
            figures[name] = under_load(api, plan)
    if options.jobs:
        figures["reads"] = reads(work, options)
    print(json.dumps(figures))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--pollers", type=int, default=500)
    parser.add_argument("--followers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--keys", type=int, default=50, help="that the clients share, where they send one")
    parser.add_argument("--jobs", type=int, default=100_000, help="of the long list; 0: no reads are measured")
    parser.add_argument("--events", type=int, default=5_000_000, help="of the long job")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each path is asked")
    parser.add_argument("--database-url", help="of a PostgreSQL server; default: SQLite")
    return parser.parse_args()


class Home:
    """A new home with a migrated database."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise SystemExit(f"{path} is there already; give a new folder")
        self.settings = Settings(home=path)
        path.mkdir(mode=0o700)
        upgrade(self.settings.database)
        self.database = Database.open(self.settings.database)

    def fill_for_polls(self) -> tuple[list[str], Claim]:
        """Twenty jobs that are polled: one that runs and has a thousand events, nine that wait, ten that have ended."""
        with self.database.writer() as session:
            waiting = [a_job(number, JobStatus.QUEUED) for number in range(10)]
            ended = [a_job(10 + number, JobStatus.SUCCEEDED) for number in range(10)]
            session.add_all([*waiting, *ended])
            for job in (*waiting, *ended):
                append_event(session, job, "status", {"status": job.status.value}, job.created_at)
            session.commit()
        running = self._claim()
        for hundred in range(EVENTS // 100):
            beat(self.database, running, [a_step(100 * hundred + number) for number in range(1, 101)])
        return [job.id for job in (*waiting, *ended)], running

    def make_keys(self, count: int) -> list[str]:
        wanted = {"name": "bench", "project": "default", "scopes": ["read"]}
        return [commands.create(self.settings, wanted).key for _ in range(count)]

    def _claim(self) -> Claim:
        with self.database.writer() as session:
            job = claim(session, Stage.TRAIN, "worker", "slot", utc_now())
            session.commit()
        assert job is not None
        return Claim(job.id, job.epoch, Stage.TRAIN, "worker")


def a_job(number: int, status: JobStatus) -> Job:
    """Made by the service itself, `number` seconds ago."""
    spec = JobSpec.model_validate(BODY)
    job = service.new_job(KINDS[TRAIN], spec, BODY, training_columns(spec))
    job.status, job.created_at = status, utc_now() - timedelta(seconds=number)
    job.data_report = REPORT
    job.is_temporary = False
    job.project, job.checkpoints_requested = "default", 0
    if status.is_final:
        job.finished_at = job.created_at + timedelta(seconds=1)
    return job


def a_step(step: int) -> StepLogged:
    return StepLogged(
        step=step,
        total_steps=100_000,
        epoch=step / 1000,
        loss=1.0,
        learning_rate=2e-4,
        grad_norm=0.5,
        tokens=4096 * step,
        tokens_per_second=9000.0,
        seconds=0.5 * step,
        memory_bytes=2**33,
    )


def beat(database: Database, running: Claim, steps: Sequence[StepLogged]) -> None:
    with database.writer() as session:
        record(session, running, steps, steps[-1].step)
        session.commit()


@contextmanager
def heartbeats(database: Database, running: Claim) -> Iterator[None]:
    """A worker's heartbeat a second, with two steps each."""
    is_over = threading.Event()

    def work() -> None:
        step = EVENTS + 1
        while not is_over.wait(1):
            beat(database, running, [a_step(step), a_step(step + 1)])
            step += 2

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class Api:
    """A running API."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str) -> float:
        """Seconds until the answer is there, on a connection of its own."""
        began = time.perf_counter()
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
        return time.perf_counter() - began

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in (self.process.pid, *children(self.process.pid)))


@contextmanager
def serving(settings: Settings, processes: int) -> Iterator[Api]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    chosen = {
        "HOME": settings.root,
        "DATABASE_URL": settings.database,
        "PORT": port,
        "API_PROCESSES": processes,
    }
    environment = {**os.environ, **{f"TUNESMITH_{name}": str(value) for name, value in chosen.items()}}
    with (settings.root / "api.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "app.serve"], env=environment, stdout=log, stderr=log)
        try:
            api = Api(process, port)
            wait_until_it_answers(api)
            yield api
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_until_it_answers(api: Api) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            api.get("/healthz")
        except OSError:
            if time.monotonic() > deadline or api.process.poll() is not None:
                raise
            time.sleep(0.1)
        else:
            return


def under_load(api: Api, plan: Plan) -> dict[str, Any]:
    """Polls, streams and `/healthz` at the same time."""
    argv = [sys.executable, "-m", "bench.load_generator", "127.0.0.1", str(api.port)]
    load = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert load.stdin is not None
    assert load.stderr is not None
    load.stdin.write(json.dumps(asdict(plan)).encode())
    load.stdin.close()
    load.stderr.readline()  # all clients are connected
    machine, used, began = Machine(), api.cpu_seconds(), time.perf_counter()
    health = []
    while time.perf_counter() - began < plan.seconds:
        health.append(api.get("/healthz"))
        time.sleep(HEALTH_SECONDS)
    machine.stop()
    spent = api.cpu_seconds() - used
    assert load.stdout is not None
    seen = json.loads(load.stdout.read())
    load.wait()
    cores = {"api": spent / machine.seconds, "load_generator": seen["cpu_seconds"] / plan.seconds}
    return {
        "polls": len(seen["latencies"]),
        "api_cpu_ms_per_poll": round(1000 * spent / max(1, len(seen["latencies"])), 2),
        "poll_ms": spread(seen["latencies"]),
        "statuses": seen["statuses"],
        "followers": len(seen["newest"]),
        "events": seen["events"],
        "caught_up_seconds": round(seen["caught_up_seconds"], 2),
        "furthest_behind": max(seen["newest"]) - min(seen["newest"]),
        "event_delay_ms": spread(seen["delays"]),
        "errors": len(seen["errors"]),
        "first_errors": seen["errors"][:5],
        "healthz_ms": spread(health),
        "machine": machine.figures(cores),
    }


def reads(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The reads of a page, with few jobs and events and with many."""
    with own_database(options.database_url) as few_url, own_database(options.database_url) as many_url:
        model = a_job(0, JobStatus.SUCCEEDED)
        few = Filled(work / "few", few_url, FEW_JOBS, FEW_EVENTS, model)
        many = Filled(work / "many", many_url, options.jobs, options.events, model)
        with serving(few.settings, 1) as few_api, serving(many.settings, 1) as many_api:
            machine = Machine()
            figures = compare((few_api, few), (many_api, many), options.rounds)
            machine.stop()
    sizes = {"few": [FEW_JOBS, FEW_EVENTS], "many": [options.jobs, options.events]}
    return {"jobs_and_events": sizes, "paths": figures, "machine": machine.figures({})}


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    ordered = [1000 * each for each in sorted(seconds)]
    places = {f"p{percent}": ordered[len(ordered) * percent // 100] for percent in (50, 95, 99)} | {"max": ordered[-1]}
    return {name: round(value, 2) for name, value in places.items()}


class Machine:
    """How busy the cores are from here until `stop`, and how much of that is ours."""

    def __init__(self) -> None:
        self._began, self._busy = time.perf_counter(), busy_seconds()
        self.seconds = 0.0

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._began
        self._busy = busy_seconds() - self._busy

    def figures(self, ours: dict[str, float]) -> dict[str, Any]:
        busy = self._busy / self.seconds
        cores = {**ours, "all": busy, "others": max(0.0, busy - sum(ours.values()))}
        return {
            "load_average": round(os.getloadavg()[0], 1),
            "cores_used": {name: round(value, 2) for name, value in cores.items()},
        }


def busy_seconds() -> float:
    """Of all cores together since boot (`man 5 proc_stat`)."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS


def cpu_seconds(pid: int) -> float:
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def children(pid: int) -> list[int]:
    return [int(child) for child in Path("/proc", str(pid), "task", str(pid), "children").read_text().split()]


if __name__ == "__main__":
    main()
