"""What supervision, events and checkpoints cost a training that nothing disturbs. Prints one line of JSON.

usage: python -m bench.quiet_run MODEL_DIR WORK_DIR [--steps 60] [--rounds 2]

The same training, in turn: as a job of the service (API, broker, workers, guardian, heartbeats, checkpoints by time),
and its trainer alone, by the same order without checkpoints. Seconds a step are means behind the first ten steps.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, CheckpointSaved, StepLogged
from app.contracts.order import TrainingOrder
from app.processes.environments import Process
from tests.e2e.stack import Stack, running
from worker.child import TRAINER, command, environment

WARM_UP = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    env = {"TUNESMITH_MODELS_DIR": str(options.model.resolve().parent)}
    with running(options.work.resolve() / "home", env) as stack:
        rounds = [one_round(stack, options, number) for number in range(options.rounds)]
    served, alone = ([one[name] for one in rounds] for name in ("served", "alone"))
    ratio = statistics.median(served) / statistics.median(alone)
    saved = [one["saved"] for one in rounds]
    print(json.dumps({"seconds_a_step": {"served": served, "alone": alone}, "ratio": round(ratio, 4), "saved": saved}))


def one_round(stack: Stack, options: argparse.Namespace, number: int) -> dict[str, Any]:
    job_id = stack.submit(
        model={"model_name": options.model.name, "max_seq_length": 256, "load_in_4bit": False},
        training={"max_steps": options.steps, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    )
    job = stack.wait(job_id, "succeeded", "failed", seconds=3600)
    assert job["status"] == "succeeded", job["error"]
    orders = [path.read_text() for path in stack.home.glob(f"jobs/{job_id}/attempts/*/order.json")]
    order = TrainingOrder.model_validate_json(next(text for text in orders if "adapter_dir" in text))
    served = read(order.events)
    saves = [event.seconds for event in served if isinstance(event, CheckpointSaved)]
    return {"served": pace(served), "alone": pace(run_alone(order, options.work / f"alone-{number}")), "saved": saves}


def run_alone(order: TrainingOrder, folder: Path) -> list[AttemptEvent]:
    folder = folder.resolve()
    folder.mkdir()
    training = order.spec.training.model_copy(update={"save_steps": None})
    changes = {name: folder / name for name in ("events", "work_dir", "adapter_dir", "checkpoints", "pulse")}
    alone = order.model_copy(update={**changes, "spec": order.spec.model_copy(update={"training": training})})
    alone.work_dir.mkdir()
    (folder / "order.json").write_text(alone.model_dump_json())
    env = environment(Process.TRAIN, order.events.parents[4] / "cache")
    argv = command(TRAINER, folder / "order.json")
    with (folder / "output.log").open("wb") as log:
        subprocess.run(argv, env=env, cwd=folder, stdout=log, stderr=log, check=True)
    return read(alone.events)


def read(events: Path) -> list[AttemptEvent]:
    return [ATTEMPT_EVENT.validate_json(line) for line in events.read_text().splitlines()]


def pace(events: list[AttemptEvent]) -> float:
    """Seconds a step."""
    steps = [event for event in events if isinstance(event, StepLogged)]
    first, last = steps[WARM_UP - 1], steps[-1]
    return round((last.seconds - first.seconds) / (last.step - first.step), 4)


if __name__ == "__main__":
    main()
