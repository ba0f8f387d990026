"""How much an engine, a training and a check that share the cores of a CPU slow each other. Prints one JSON object.

usage: python -m bench.neighbours WORK_DIR --model DIR [--rounds 3] [--seconds 12]

Each way of waiting has an engine and a trainer of its own, which all run from the beginning to the end; the trainers
are frozen but for the one that is measured. Rounds take the ways in turn, so that what else the machine does meets all
of them alike. Figures are medians of the rounds; `times_…` is how much slower than alone in the same round.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from app.contracts.events import ATTEMPT_EVENT, StepLogged
from app.contracts.order import BaseRef, CheckOrder, SourceFile, TrainingOrder
from app.contracts.plan import plan_of
from app.contracts.rows import TOKENIZER, TRAIN_ROWS
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from tests.integration.engine.processes import free_port
from tests.support.waiting import wait_for
from worker.child import environment

START_SECONDS = 300.0
ROWS, ROWS_TO_CHECK = 512, 20_000
# Variables that replace the service's own settings of OpenMP; None removes one. "spinning": how often GNU's library
# spins if no variable says it.
WAYS: dict[str, dict[str, str | None]] = {
    "spinning": {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": "300000"},
    "chosen": {},
    "one thread each": {"OMP_NUM_THREADS": "1"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the processes end with it
    work, model = options.work.resolve(), options.model.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        pairs = {name: stack.enter_context(neighbours(work / name, model, name)) for name in WAYS}
        rounds = [
            {name: one_round(pair, options.seconds) for name, pair in pairs.items()} for _ in range(options.rounds)
        ]
    middle = {
        name: {key: round(median(each[name][key] for each in rounds), 3) for key in rounds[0][name]} for name in WAYS
    }
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg(), "ways": middle}))


@dataclass(frozen=True)
class Pair:
    """An engine and a trainer, and how to check many rows beside them."""

    url: str
    base: BaseRef
    trainer: subprocess.Popen[bytes]
    events: Path
    check: list[str]
    environment: dict[str, str]

    def train_for(self, seconds: float) -> float:
        """Seconds of a step."""
        with self.training():
            time.sleep(seconds)
            return self.step_seconds(seconds)

    @contextmanager
    def training(self) -> Iterator[None]:
        os.kill(self.trainer.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.kill(self.trainer.pid, signal.SIGSTOP)

    def step_seconds(self, within: float) -> float:
        """The mean of the steps that began and ended in the last seconds; all of them where there are less than two."""
        ends = [end for end in self.step_ends() if end > time.time() - within]
        return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else within

    def step_ends(self) -> list[float]:
        lines = self.events.read_text().splitlines() if self.events.exists() else []
        events = [ATTEMPT_EVENT.validate_json(line) for line in lines]
        return [event.at.timestamp() for event in events if isinstance(event, StepLogged)]

    def answer_for(self, seconds: float) -> float:
        """Tokens a second, of one answer after another."""
        tokens, began = 0, time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            tokens += self.answer()
        return tokens / passed

    def answer(self, tokens: int = 16) -> int:
        sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
        order = {"request_id": "r", "base": self.base.model_dump(), "prompt": "Once upon a time", "sampling": sampling}
        answer = httpx.post(f"{self.url}/generate", json=order, timeout=START_SECONDS, trust_env=False)
        last = json.loads(answer.text.splitlines()[-1])
        return int(last["usage"]["completion_tokens"])

    def check_seconds(self) -> float:
        began = time.monotonic()
        subprocess.run(self.check, env=self.environment, check=True, stdout=sys.stderr)
        return time.monotonic() - began


def one_round(pair: Pair, seconds: float) -> dict[str, float]:
    step, rate, check = pair.train_for(seconds), pair.answer_for(seconds), pair.check_seconds()
    with pair.training():
        rate_beside = pair.answer_for(seconds)
        step_beside = pair.step_seconds(seconds)
        began = time.monotonic()
        check_beside = pair.check_seconds()
        step_beside_check = pair.step_seconds(time.monotonic() - began)
    return {
        "step_seconds": step,
        "tokens_per_second": rate,
        "check_seconds": check,
        "step_seconds_beside_engine": step_beside,
        "tokens_per_second_beside_training": rate_beside,
        "check_seconds_beside_training": check_beside,
        "times_step": step_beside / step,
        "times_token": rate / rate_beside,
        "times_check": check_beside / check,
        "times_step_beside_check": step_beside_check / step,
    }


@contextmanager
def neighbours(folder: Path, model: Path, way: str) -> Iterator[Pair]:
    """Started, warm, and idle: the engine has the model in memory, the trainer is frozen between two of its steps."""
    (folder / "work").mkdir(parents=True)
    own = {name: value for name, value in {**environment(Process.TRAIN, folder), **WAYS[way]}.items() if value}
    base, port = BaseRef(source=str(model), is_local=True), free_port()
    data = check_order(folder, base, model.name, ROWS)
    subprocess.run(data, env=own, check=True, stdout=sys.stderr)
    command = [sys.executable, "-m", "worker.training", str(training_order(folder, base, model.name))]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "trainer.log").open("wb"))
        trainer = subprocess.Popen(command, env=own, cwd=folder, stdout=log, stderr=log)
        stack.callback(end, trainer)
        log = stack.enter_context((folder / "engine.log").open("wb"))
        argv = [sys.executable, "-m", "worker.inference", "--device", "cpu", "--port", str(port)]
        engine = subprocess.Popen(argv, env=own, stdout=log, stderr=log)
        stack.callback(end, engine)
        large = check_order(folder, base, model.name, ROWS_TO_CHECK)
        pair = Pair(f"http://127.0.0.1:{port}", base, trainer, folder / "events.jsonl", large, own)
        wait_for("the engine answers", lambda: is_up(pair.url), START_SECONDS)
        pair.answer()
        wait_for("the training steps", lambda: len(pair.step_ends()) > 2, START_SECONDS)
        os.kill(trainer.pid, signal.SIGSTOP)
        yield pair


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def spec_of(model: str) -> JobSpec:
    return JobSpec.model_validate(
        {
            "model": {"model_name": model, "max_seq_length": 256, "load_in_4bit": False},
            "dataset": {"source": {"file": "file-" + "a" * 24}},
            "training": {
                "max_steps": 100_000,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 1,
                "save_steps": 100_000,
            },
        }
    )


def check_order(folder: Path, base: BaseRef, model: str, rows: int) -> list[str]:
    """The command of a check of so many rows of about a hundred tokens; none of them is prepared already."""
    source = folder / f"{rows}.jsonl"
    words = "the quick brown fox jumps over the lazy dog "
    lines = [{"prompt": f"{n}: {words * 4}", "completion": f"{words * 4}{n}"} for n in range(rows)]
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    order = CheckOrder(
        job_id="job-x",
        epoch=1,
        spec=plan_of(spec_of(model)),
        base=base,
        train_file=SourceFile(path=source, filename=source.name),
        eval_file=None,
        max_unpacked_bytes=2**30,
        max_hub_bytes=2**30,
        data_dir=folder / f"data-{rows}",
        cache_dir=folder / "cache",
        max_cache_bytes=0,
        events=folder / f"check-{rows}.jsonl",
    )
    path = folder / f"check-{rows}.json"
    path.write_text(order.model_dump_json())
    return [sys.executable, "-m", "worker.checking", str(path)]


def training_order(folder: Path, base: BaseRef, model: str) -> Path:
    data = folder / f"data-{ROWS}"
    order: dict[str, Any] = {
        "job_id": "job-x",
        "epoch": 1,
        "spec": spec_of(model),
        "base": base,
        "train_rows": data / TRAIN_ROWS,
        "eval_rows": None,
        "tokenizer": data / TOKENIZER,
        "events": folder / "events.jsonl",
        "work_dir": folder / "work",
        "adapter_dir": folder / "adapter",
        "checkpoints": folder / "checkpoints",
        "pulse": folder / "pulse",
    }
    (folder / "checkpoints").mkdir()
    path = folder / "training.json"
    path.write_text(TrainingOrder(**order).model_dump_json())
    return path


if __name__ == "__main__":
    main()
