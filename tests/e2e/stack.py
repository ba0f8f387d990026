"""The whole service as `tunesmith up` starts it, and a client of its REST API."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import wait_for

SECONDS_FOR_A_JOB = 400.0
PLUGINS = "tests.support.dummy_method,tests.support.dummy_kind"
MODEL = "tiny"
BIASED_MODEL = "tiny-biased"


@dataclass
class Stack:
    """A running service. Job bodies train a tiny real model for a few steps."""

    home: Path
    process: subprocess.Popen[bytes]
    api: httpx.Client

    def upload(self, rows: list[Any]) -> str:
        body = "\n".join(json.dumps(row) for row in rows).encode()
        answer = self.api.post("/files", files={"file": ("chats.jsonl", body)})
        assert answer.status_code == 201, answer.text
        file_id: str = answer.json()["id"]
        return file_id

    def submit(self, **groups: Any) -> str:
        body = {
            "model": {"model_name": MODEL, "max_seq_length": 256, "load_in_4bit": False},
            "dataset": {"source": {"file": self.upload(CHATS)}},
            "training": {"max_steps": 20, "learning_rate": 0.02, "warmup_steps": 1},
            **groups,
        }
        answer = self.api.post("/jobs", json=body)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/jobs/{job_id}").json()
        return found

    def wait(self, job_id: str, *statuses: str, seconds: float = SECONDS_FOR_A_JOB) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] in statuses else None

        return wait_for(f"{job_id} is {' or '.join(statuses)}", reached, seconds)

    def wait_for_step(self, job_id: str, step: int = 1) -> dict[str, Any]:
        def stepped() -> dict[str, Any] | None:
            job = self.job(job_id)
            is_there = job["progress"] is not None and job["progress"]["step"] >= step
            return job if is_there or job["status"] not in ("validating", "queued", "running") else None

        return wait_for(f"{job_id} logged step {step}", stepped, SECONDS_FOR_A_JOB)

    def generate(self, **body: Any) -> httpx.Response:
        question = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_new_tokens": 12}
        return self.api.post("/generate", json={**question, **body})

    def processes(self, *words: str) -> list[int]:
        """Processes of this home whose command line holds all the words."""
        return [pid for pid, line in command_lines() if str(self.home) in line and all(word in line for word in words)]


CHATS = [
    {"conversations": [{"from": "human", "value": f"hello {n}"}, {"from": "gpt", "value": "good day to you"}]}
    for n in range(16)
]


def command_lines() -> Iterator[tuple[int, str]]:
    """Every process with its command line and environment: children of a stack carry its home in one of them."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes() + b" " + (folder / "environ").read_bytes()
        except OSError:
            continue
        if int(folder.name) != os.getpid():
            yield int(folder.name), line.replace(b"\0", b" ").decode(errors="replace")


@contextmanager
def running(home: Path, env: Mapping[str, str]) -> Iterator[Stack]:
    """`tunesmith up` on a home of its own and free ports; stopped at the end, and nothing may be left of it."""
    url_file = home / "run" / "url"
    url_file.unlink(missing_ok=True)  # of a service that was killed
    argv = [sys.executable, "-m", "app.cli", "up", "--home", str(home), "--port", "0"]
    log = home.parent / f"{home.name}.log"
    with log.open("ab") as output:
        usual = {"TUNESMITH_PLUGINS": PLUGINS, "TUNESMITH_WARM_SPARE": "0"}  # a spare takes ten seconds of computing
        process = subprocess.Popen(argv, env={**os.environ, **usual, **env}, stdout=output, stderr=output)
    try:
        wait_for("the service is up", lambda: url_file.exists() or process.poll() is not None, 90)
        assert process.poll() is None, log.read_text()
        with httpx.Client(base_url=url_file.read_text(), timeout=180) as api:
            stack = Stack(home, process, api)
            wait_for("the engine is up", lambda: api.get("/readyz").json()["status"] == "ready", 90)
            yield stack
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    wait_for("nothing is left running", lambda: not stack.processes())
