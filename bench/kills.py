"""`kill -9` of the processes of real Unsloth trainings, again and again; prints one JSON object.

usage: python -m bench.kills WORK_DIR [--model DIR] [--kills 12] [--steps 300] [--kills-a-job 3] [--seed 1]

The same training in fp32 runs once undisturbed, and then with kills at random moments until there were enough of them.
Each kill takes the trainer, the guardian with it, the worker, or all of the service, which is started again. Every
job has to end with the losses and the adapter of the quiet run, to the bit. Without `--model` a tiny Llama is made.

`seconds_to_next_step` is from the kill to the first step behind it, and what it is made of: until another attempt began
(`claim`), until its trainer's first event (`start`: the interpreter and the order), until all is loaded and the
checkpoint read (`load`), and the step itself.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import sys
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.e2e.stack import MODEL, Stack, running
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for

VICTIMS: dict[str, list[tuple[str, ...]]] = {
    "trainer": [("-m worker.training",)],
    "guardian": [("guardian_process.py", "worker.training"), ("-m worker.training",)],
    "worker": [("celery", "trainer0")],
    "everything": [],
}
FIGURES = ("step", "loss", "learning_rate", "grad_norm", "tokens", "epoch")
PARTS = ("claim", "start", "load", "step")


class Service:
    """The service on one home; `restart` starts it again after all of it was killed."""

    def __init__(self, home: Path, models: Path) -> None:
        self._home, self._models = home, models
        self._running = ExitStack()
        self.stack = self._start()

    def _start(self) -> Stack:
        env = {"TUNESMITH_MODELS_DIR": str(self._models), "TUNESMITH_MAX_ATTEMPTS": "100"}
        return self._running.enter_context(running(self._home, env))

    def kill(self) -> None:
        self.stack.process.kill()
        wait_for("nothing is left running", lambda: not self.stack.processes())

    def restart(self) -> None:
        self._running = ExitStack()  # what is killed cannot be stopped
        self.stack = self._start()

    def close(self) -> None:
        self._running.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--kills-a-job", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    work = options.work.resolve()
    model = options.model.resolve() if options.model else work / "models" / MODEL
    if options.model is None:
        build_tiny_model(model)
    rng = random.Random(options.seed)
    kills: list[dict[str, Any]] = []
    jobs: list[dict[str, Any]] = []
    with closing(Service(work / "home", model.parent)) as service:
        quiet = finish(service, submit(service, model.name, options.steps))
        while len(kills) < options.kills:
            job_id = submit(service, model.name, options.steps)
            steps = sorted(rng.sample(range(5, options.steps - 10), options.kills_a_job))
            kills += [kill(service, job_id, step, rng.choice(list(VICTIMS))) for step in steps]
            jobs.append({"job": job_id, "is_that_of_the_quiet_run": finish(service, job_id) == quiet})
    wrong = [job for job in jobs if not job["is_that_of_the_quiet_run"]]
    print(json.dumps({"seed": options.seed, "steps": options.steps, "jobs": jobs, **figures(kills), "kills": kills}))
    sys.exit(1 if wrong else 0)


def submit(service: Service, model: str, steps: int) -> str:
    return service.stack.submit(
        model={"model_name": model, "max_seq_length": 256, "load_in_4bit": False, "dtype": "float32"},
        lora={"lora_dropout": 0.1},
        training={"max_steps": steps, "learning_rate": 0.005, "save_steps": 10, "fp16": False, "bf16": False},
    )


def finish(service: Service, job_id: str) -> tuple[Any, str]:
    """The curve and the hash of the adapter's weights."""
    job = service.stack.wait(job_id, "succeeded", "failed", seconds=1800)
    assert job["status"] == "succeeded", job["error"]
    points = service.stack.api.get(f"/jobs/{job_id}/metrics").json()["steps"]
    folder = service.stack.home / "adapters" / job["adapter_id"]
    weights = next(folder.glob("*/adapter_model.safetensors"))
    return [[point[name] for name in FIGURES] for point in points], hashlib.sha256(weights.read_bytes()).hexdigest()


def kill(service: Service, job_id: str, step: int, victim: str) -> dict[str, Any]:
    """Kill at a step, and wait for the next one."""
    stack = service.stack
    stack.wait_for_step(job_id, step)
    wait_for("a training is at work", lambda: stack.job(job_id)["status"] == "running")
    at = datetime.now(UTC)
    if victim == "everything":
        service.kill()
        service.restart()
    for words in VICTIMS[victim]:
        for pid in stack.processes(*words):
            os.kill(pid, signal.SIGKILL)
    parts = wait_for("the next step", lambda: parts_of(service.stack, job_id, at), 300)
    time.sleep(0.5)
    return {"victim": victim, "at_step": step, **parts}


def parts_of(stack: Stack, job_id: str, at: datetime) -> dict[str, float] | None:
    """Seconds from a kill to the next step, part by part; None before there is one."""
    later = [try_ for try_ in stack.job(job_id)["attempts"] if moment(try_["started_at"]) > at]
    events = [event for event in all_events(stack, job_id) if later and event["attempt"] >= later[0]["epoch"]]
    first = next((event for event in events if event["kind"] == "step"), None)
    resumed = next((event for event in events if event["kind"] == "resumed"), None)
    if first is None or resumed is None:
        return None
    begun = next(event for event in events if event["kind"] == "phase")
    ends = [later[0]["started_at"], begun["at"], resumed["at"], first["at"]]
    times = [at, *map(moment, ends)]
    spans = {
        part: round((end - start).total_seconds(), 2) for part, (start, end) in zip(PARTS, pairwise(times), strict=True)
    }
    return {"seconds": round((times[-1] - at).total_seconds(), 2), **spans}


def all_events(stack: Stack, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["seq"] if found else 0
        page = stack.api.get(f"/jobs/{job_id}/events", params={"after": after, "limit": 1000}).json()
        found += page["data"]
        if not page["has_more"]:
            return found


def moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def figures(kills: list[dict[str, Any]]) -> dict[str, Any]:
    def middle_and_worst(chosen: list[dict[str, Any]], part: str) -> dict[str, float]:
        values = [one[part] for one in chosen]
        return {"median": round(statistics.median(values), 2), "worst": max(values)}

    by_victim = {victim: [one for one in kills if one["victim"] == victim] for victim in VICTIMS}
    return {
        "seconds_to_next_step": {part: middle_and_worst(kills, part) for part in ("seconds", *PARTS)},
        "by_victim": {
            victim: {"kills": len(chosen), **middle_and_worst(chosen, "seconds")}
            for victim, chosen in by_victim.items()
            if chosen
        },
    }


if __name__ == "__main__":
    main()
