"""Runs the checker as the worker starts it, on a model and a file of this machine."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, DataPrepared, Failed, SourcesChecked
from app.contracts.order import BaseRef, CheckOrder, SourceFile
from app.contracts.rows import TOKENIZER, TRAIN_ROWS
from app.contracts.spec import JobSpec
from app.environments import Process
from worker.child import environment


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
        spec=spec,
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


def run(order: CheckOrder, **env: str) -> list[AttemptEvent]:
    """The events of one run of the checker."""
    path = order.events.with_name("check.json")
    path.write_text(order.model_dump_json(exclude_unset=True))
    order.events.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "worker.checking", str(path)]
    child_env = {**environment(Process.CHECK, order.cache_dir), **env}
    done = subprocess.run(argv, env=child_env, capture_output=True, text=True, timeout=300, check=False)
    events = [ATTEMPT_EVENT.validate_json(line) for line in order.events.read_text().splitlines()]
    assert events, done.stderr
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
