"""How soon a training takes its first step: cold, with compiled kernels of an earlier one, and from a warm spare.

usage: python -m bench.start WORK_DIR [--model DIR] [--service] [--steps 5] [--load-in-4bit]

Prints one JSON object. Without `--service` only trainer processes are started, as a worker starts them: with an empty
cache, again with what that has compiled, and from a spare that has waited. With `--service` equal jobs are posted to
the whole service, without and with a spare, and the seconds are counted from the POST. Without `--model` a tiny Llama
is made. WORK_DIR should be empty.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from app.config import Settings
from app.contracts.events import ATTEMPT_EVENT, Failed, TrainingStarted
from app.contracts.order import BaseRef
from app.contracts.spare import SpareReady
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from app.processes.guardian import spawn
from tests.e2e.stack import Stack, running
from tests.support.prepared_rows import a_training, prepare
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for
from worker.child import TRAINER, command, environment
from worker.confinement.process import NVIDIA_CONTROL, temporary_folder
from worker.supervising.slots import Slot
from worker.supervising.spare import Spare

SPARE_SECONDS = 300.0
WORDS = "the quick brown fox jumps over the lazy dog "
RECORDS = [{"prompt": f"{n}: {WORDS * 4}", "completion": f"{WORDS * 4}{n}"} for n in range(64)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--service", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--load-in-4bit", action="store_true")
    options = parser.parse_args()
    work = options.work.resolve()
    model = options.model.resolve() if options.model else build_tiny_model(work / "models" / "tiny")
    body = {
        "model": {"model_name": model.name, "max_seq_length": 512, "load_in_4bit": options.load_in_4bit},
        "training": {"max_steps": options.steps, "gradient_accumulation_steps": 1},
    }
    print(json.dumps(of_service(work, model, body) if options.service else Trainers(work, model, body).measure()))


@dataclass
class Trainers:
    """Attempts at one training, in processes of their own, with one cache."""

    work: Path
    model: Path
    body: dict[str, Any]

    def measure(self) -> dict[str, Any]:
        spec = JobSpec.model_validate(a_body(**self.body))
        data = prepare(self.model, self.work / "check", RECORDS, spec)
        base = BaseRef(source=str(self.model), is_local=True)

        def order(name: str) -> Path:
            folder = self.work / name
            (folder / "work").mkdir(parents=True)
            (folder / "checkpoints").mkdir()
            places = {"checkpoints": folder / "checkpoints", "cache_dir": self.work / "home" / "cache"}
            is_confined = not NVIDIA_CONTROL.exists()  # as `TUNESMITH_CONFINEMENT=auto`
            path = folder / "order.json"
            path.write_text(a_training(folder, spec, base, **data, **places, is_confined=is_confined).model_dump_json())
            return path

        cold = {name: self._cold(order(name)) for name in ("empty_cache", "warm_cache")}
        with self._spare() as (spare, ready):
            began = datetime.now(UTC)
            path = order("spare")
            assert spare.give(path), spare.last_words()
            spare.child.wait()
            warm = {"refusal": spare.refusal(), "held": ready.model_dump(), **start_of(path, began)}
        return {**cold, "spare": warm}

    def _env(self) -> dict[str, str]:
        return environment(Process.TRAIN, self.work / "home" / "cache")

    def _cold(self, order: Path) -> dict[str, Any]:
        began = datetime.now(UTC)
        with temporary_folder() as temporary:
            env = {**self._env(), "TMPDIR": str(temporary)}
            output = order.with_name("output.log")
            with spawn(command(TRAINER, order), env=env, cwd=order.parent, output=output) as child:
                child.wait()
        return start_of(order, began)

    @contextmanager
    def _spare(self) -> Iterator[tuple[Spare, SpareReady]]:
        """A spare that has its imports. Its lease is long, since nobody renews it."""
        settings = Settings.model_validate({"home": self.work / "home", "lease_seconds": 3600})
        with Slot.open(settings.slots, "bench") as slot:
            assert slot.try_lock()
            with Spare(settings, slot, self._env()) as spare:
                yield spare, wait_for("the spare is ready", spare.listen, SPARE_SECONDS)


def start_of(order: Path, began: datetime) -> dict[str, Any]:
    """The seconds of each part of a start, and those from `began` to the end of the first step."""
    file = order.with_name("events.jsonl")
    events = [ATTEMPT_EVENT.validate_json(line) for line in file.read_text().splitlines()] if file.exists() else []
    for event in events:
        if isinstance(event, TrainingStarted):
            return {"seconds": until_first_step(event, began), **event.model_dump(mode="json", exclude={"kind", "at"})}
    return {"failed": [event.model_dump(mode="json") for event in events if isinstance(event, Failed)]}


def until_first_step(started: TrainingStarted, began: datetime) -> float:
    parts = started.import_seconds + started.load_seconds + started.first_step_seconds
    return round((started.began_at + timedelta(seconds=parts) - began).total_seconds(), 2)


def of_service(work: Path, model: Path, body: dict[str, Any]) -> dict[str, Any]:
    """Two equal jobs without a spare, then two with one, in one home: the cache of kernels is empty only once."""
    found: dict[str, Any] = {}
    for name, is_on in (("without_spare", "0"), ("with_spare", "1")):
        env = {"TUNESMITH_MODELS_DIR": str(model.parent), "TUNESMITH_WARM_SPARE": is_on, "TUNESMITH_VERIFY": "off"}
        with running(work / "home", env) as stack:
            found[name] = [one_job(stack, body, number * int(is_on)) for number in (1, 2)]
    return found


def one_job(stack: Stack, body: dict[str, Any], spares: int) -> dict[str, Any]:
    """`spares`: how many spares must have been ready before the job is posted."""
    log = stack.home / "logs" / "trainer.log"
    wait_for("a spare is ready", lambda: log.read_text().count("a warm spare is ready") >= spares, SPARE_SECONDS)
    source = {"dataset": {"source": {"file": stack.upload(RECORDS)}}}
    began = datetime.now(UTC)
    job_id = stack.submit(**body, **source)
    stack.wait(job_id, "succeeded", "failed")
    return {"seconds_from_post": seconds_from_post(stack.api, job_id, began), **(stack.job(job_id)["timings"] or {})}


def seconds_from_post(api: httpx.Client, job_id: str, began: datetime) -> float | None:
    for event in api.get(f"/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]:
        if event["kind"] == "started":
            fields = {name: event[name] for name in TrainingStarted.model_fields if name in event}
            return until_first_step(TrainingStarted.model_validate(fields), began)
    return None


if __name__ == "__main__":
    main()
