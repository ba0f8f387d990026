"""Runs the checker, in a process a check, on a model and a file of this machine."""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, DataPrepared, Failed, SourcesChecked
from app.contracts.order import BaseRef, CheckOrder, SourceFile, TrainingOrder
from app.contracts.plan import plan_of
from app.contracts.rows import TOKENIZER, TRAIN_ROWS
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from tests import ROOT
from worker.child import environment
from worker.model_card import read_card


def a_check(
    folder: Path,
    spec: JobSpec,
    base: BaseRef,
    train: Path | None,
    evaluation: Path | None = None,
    *,
    max_hub_bytes: int = 10**9,
) -> CheckOrder:
    """An order whose data, cache and events lie in the folder."""

    def source(path: Path | None) -> SourceFile | None:
        return SourceFile(path=path, filename=path.name) if path is not None else None

    return CheckOrder(
        job_id="job-x",
        epoch=1,
        spec=plan_of(spec),
        base=base,
        train_file=source(train),
        eval_file=source(evaluation),
        max_unpacked_bytes=10**9,
        max_hub_bytes=max_hub_bytes,
        data_dir=folder / "data",
        cache_dir=folder / "cache",
        max_cache_bytes=10**9,
        events=folder / "events.jsonl",
    )


def a_training(attempt: Path, spec: JobSpec, base: BaseRef, **fields: Any) -> TrainingOrder:
    """An order whose files lie in the folder of the attempt, and its checkpoints beside that."""
    names = {"events": "events.jsonl", "work_dir": "work", "adapter_dir": "adapter", "pulse": "pulse"}
    places = {field: attempt / name for field, name in names.items()} | {"checkpoints": attempt.parent / "checkpoints"}
    usual = {"job_id": "job-x", "epoch": 1, "eval_rows": None, "spec": plan_of(spec), "base": base}
    usual["card"] = read_card(Path(base.source)) if base.is_local else None
    return TrainingOrder(**{**usual, **places, **fields})


@dataclass(frozen=True)
class Ended:
    """How the process of a check ended, and the most memory that it had."""

    code: int
    cpu_seconds: float
    memory_bytes: int


class WarmChecker:
    """`tests.support.warm_checker`, which runs check after check; it ends when its input is closed."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "tests.support.warm_checker"]
        env = environment(Process.CHECK, Path(os.devnull)) | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
        self._process = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def check(self, order: Path, env: Mapping[str, str], log: Path) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(order), dict(env), str(log)]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks the checks has ended"
        return Ended(*json.loads(answer))

    def close(self) -> None:
        self._process.communicate(timeout=30)


@cache
def the_warm_checker() -> WarmChecker:
    """One for all tests of this process."""
    checker = WarmChecker()
    atexit.register(checker.close)
    return checker


def run(order: CheckOrder, **env: str) -> list[AttemptEvent]:
    """The events of one check, in a process of its own that has its imports already."""
    events, _ = run_measured(order, **env)
    return events


def run_measured(order: CheckOrder, **env: str) -> tuple[list[AttemptEvent], Ended]:
    """As `run`, and how the process ended."""
    path, log = _written(order), order.events.with_name("check.log")
    ended = the_warm_checker().check(path, {**environment(Process.CHECK, order.cache_dir), **env}, log)
    return _events(order, log.read_text()), ended


def run_cold(order: CheckOrder, **env: str) -> list[AttemptEvent]:
    """The events of one run of the checker as the worker starts it: with the environment from its first import on."""
    argv = [sys.executable, "-m", "worker.checking", str(_written(order))]
    child_env = {**environment(Process.CHECK, order.cache_dir), **env}
    done = subprocess.run(argv, env=child_env, capture_output=True, text=True, timeout=300, check=False)
    return _events(order, done.stderr)


def _written(order: CheckOrder) -> Path:
    path = order.events.with_name("check.json")
    path.write_text(order.model_dump_json())
    order.events.unlink(missing_ok=True)
    return path


def _events(order: CheckOrder, log: str) -> list[AttemptEvent]:
    events = [ATTEMPT_EVENT.validate_json(line) for line in order.events.read_text().splitlines()]
    assert events, log
    return events


def prepare(base: Path, folder: Path, records: Iterable[Mapping[str, Any]], spec: JobSpec) -> dict[str, Path]:
    """Check rows for a model of this machine; the paths that a training order needs of the data folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    events = run(a_check(folder, spec, BaseRef(source=str(base), is_local=True), source))
    assert isinstance(events[-1], SourcesChecked), events
    (folder / "events.jsonl").unlink()
    return {"train_rows": folder / "data" / TRAIN_ROWS, "tokenizer": folder / "data" / TOKENIZER}


def report_of(events: list[AttemptEvent]) -> dict[str, Any]:
    """All that the events say of the data."""
    merged: dict[str, Any] = {}
    for event in events:
        if isinstance(event, DataPrepared):
            merged |= event.report
    return merged


def failure_of(events: list[AttemptEvent]) -> Failed:
    assert isinstance(events[-1], Failed), events
    return events[-1]
