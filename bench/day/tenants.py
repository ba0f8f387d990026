"""The users: one a project, in a thread of its own. Each works with its project's key, and never gives up."""

import json
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from typing import Any

import httpx
from openai import OpenAI

from app.ids import new_id
from bench.chaos.customers import ENDED, ROWS
from bench.chaos.stack import MODEL
from tests.support.webhook_receiver import Received, Receiver

STEPS = 6
ID = re.compile(r"\b[a-z]+-[a-z2-7]{24}\b")
LISTS = ("/jobs", "/files", "/adapters", "/webhooks", "/secrets", "/usage", "/projects", "/jobs/counts", "/v1/models")
OF_A_JOB = ("", "/events", "/logs", "/metrics", "/checkpoints", "/artifacts")
OF_A_FOREIGN_JOB = (*OF_A_JOB, "/data", "/stream")
PATIENCE_SECONDS, ROUND_SECONDS, CHANCE_OF_A_CHANGE = 180.0, 1.5, 0.2
# How many of its jobs a project changes: one of so many.
JOBS_A_CHANGE = 10
# And one of so many jobs is checked by the service's own check.
JOBS_A_CHECK = 40
DOWNLOADED = 8


@dataclass(eq=False)
class Tenant:
    """A project with its key, its jobs by their ids, and all that its answers have shown of anybody's ids."""

    project: str
    key: str
    url: str
    rng: random.Random
    canaries: dict[str, str]
    jobs: dict[str, str] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    file: str = ""
    receiver: Receiver | None = None
    webhook: str = ""
    signing_secret: str = ""
    heard: int = 0
    told: set[tuple[str, str]] = field(default_factory=set)
    resume_at: dict[str, float] = field(default_factory=dict)
    changes_left: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._api = httpx.Client(base_url=self.url, timeout=30, headers={"authorization": f"Bearer {self.key}"})

    def ask(self, method: str, path: str, *expected: int, **rest: Any) -> httpx.Response:
        """Ask until there is an answer that says something else than "not now"."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self._api.request(method, path, **rest)
                self.answers[f"{answer.status_code}"] += 1
                if answer.status_code != 503:
                    break
                self._look_into(answer.text, f"{method} {path}")
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path}: no answer but 503 in {PATIENCE_SECONDS} s")
            time.sleep(0.3)
        if answer.status_code not in (expected or (200,)):
            self.wrong.append(f"{self.project}: {method} {path}: {answer.status_code} {answer.text[:300]}")
        if method != "POST" or path != "/webhooks":  # its answer has the signing secret
            self._look_into(answer.text, f"{method} {path}")
        return answer

    def _look_into(self, text: str, what: str) -> None:
        self.ids.update({*ID.findall(text)} - {*ID.findall(what)})  # a refusal repeats what was asked for
        for name, canary in self.canaries.items():
            if canary in text:
                self.wrong.append(f"{self.project}: the answer of {what} has the secret {name}")

    def settle(self) -> None:
        """Before anything fails: a file, a secret, and a webhook if there is a receiver."""
        body = "\n".join(json.dumps(row) for row in ROWS).encode()
        self.file = self.ask("POST", "/files", 201, files={"file": ("chats.jsonl", body)}).json()["id"]
        self.ask("PUT", "/secrets/tracker", json={"value": self.canaries[f"token-of-{self.project}"]})
        if self.receiver is not None:
            made = self.ask("POST", "/webhooks", 201, json={"url": f"{self.receiver.url}/{self.project}"}).json()
            self.webhook, self.signing_secret = made["id"], made["signing_secret"]

    def submit(self, count: int) -> None:
        self.changes_left += count // JOBS_A_CHANGE
        for number in range(count):
            labels = {"steps": str(STEPS), "step_seconds": "0.03", "save_every": "3"}
            body = {
                "name": "day",
                "project": self.project,
                "labels": labels if number % JOBS_A_CHECK else {**labels, "check": "real"},
                "model": {"model_name": MODEL, "max_seq_length": 256, "load_in_4bit": False},
                "dataset": {"source": {"file": self.file}},
                "training": {"max_steps": STEPS},
                "environment": {"WANDB_API_KEY": "secret://tracker"},
            }
            headers = {"Idempotency-Key": new_id("key")}
            job_id = self.ask("POST", "/jobs", 200, 201, json=body, headers=headers).json()["id"]
            self.jobs[job_id] = "validating"

    def use(self, others: "list[Tenant]") -> None:
        """One round: look at all jobs, change some, and ask for what belongs to another project."""
        self.hear()
        for job in self.listed():
            self.jobs[job["id"]] = job["status"]
        alive = [job_id for job_id, status in self.jobs.items() if status not in ENDED]
        if alive and self.changes_left and self.rng.random() < CHANCE_OF_A_CHANGE:
            self.changes_left -= 1
            self._change(self.rng.choice(alive))
        for job_id in [one for one, due in self.resume_at.items() if time.monotonic() > due]:
            del self.resume_at[job_id]
            self.ask("POST", f"/jobs/{job_id}/resume", 200, 409)
        if self.jobs:
            own = self.rng.choice(list(self.jobs))
            self.ask("GET", f"/jobs/{own}{self.rng.choice(OF_A_JOB)}", 200, 404, 409)
        self.ask("GET", self.rng.choice(LISTS))
        self._ask_for_a_foreign_one(self.rng.choice(others))

    @property
    def messages(self) -> list[Received]:
        sent = [] if self.receiver is None else self.receiver.received
        return [got for got in sent if got.path == f"/{self.project}"]

    def hear(self) -> None:
        """Verify the messages that came since, by the secret of this webhook."""
        verifier, messages = OpenAI(api_key="unused").webhooks, self.messages
        for got in messages[self.heard :]:
            verifier.verify_signature(got.body, got.headers, secret=self.signing_secret)
            event = json.loads(got.body)
            self.told.add((event["type"], event["data"].get("job_id") or event["data"]["id"]))
            if event["data"]["project"] != self.project:
                self.wrong.append(f"{self.project} is told of {got.body!r}")
        self.heard = len(messages)

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = self.ask("GET", "/jobs", params={"limit": 1000, **after}).json()
            found += page["data"]
            if not page["has_more"]:
                return found

    def _change(self, job_id: str) -> None:
        if self.rng.random() < 0.5:
            for _ in range(self.rng.choice((1, 2))):  # cancelling twice is no error, and no second change
                self.ask("POST", f"/jobs/{job_id}/cancel", 200, 409)
        elif job_id not in self.resume_at:
            self.ask("POST", f"/jobs/{job_id}/pause", 200, 409)
            self.resume_at[job_id] = time.monotonic() + self.rng.uniform(0, 10)

    def _ask_for_a_foreign_one(self, other: "Tenant") -> None:
        paths = [f"/files/{other.file}", f"/files/{other.file}/content"]
        paths += [f"/webhooks/{other.webhook}", f"/webhooks/{other.webhook}/deliveries"] if other.webhook else []
        paths += [f"/jobs?project={other.project}", f"/secrets?project={other.project}"]
        if other.jobs:
            job_id = self.rng.choice(list(other.jobs))
            paths += [f"/jobs/{job_id}{part}" for part in OF_A_FOREIGN_JOB]
            self.ask("POST", f"/jobs/{job_id}/{self.rng.choice(('cancel', 'pause', 'resume', 'checkpoint'))}", 404)
        path = self.rng.choice(paths)
        answer = self.ask("GET", path, 200 if "?" in path else 404)
        if "?" in path and answer.json()["data"]:
            self.wrong.append(f"{self.project} sees {path}: {answer.text[:300]}")

    @property
    def knows_all_ends(self) -> bool:
        """Whether each job has ended in the user's list, and been told of if there is a webhook."""
        ends = {(f"fine_tuning.job.{status}", job_id) for job_id, status in self.jobs.items()}
        is_told = not self.webhook or ends <= self.told
        return is_told and all(status in ENDED for status in self.jobs.values())

    def download(self) -> None:
        """Some adapters, from an API whose host has trained only some of them."""
        ended = [job_id for job_id, status in self.jobs.items() if status == "succeeded"]
        for job_id in ended[:DOWNLOADED]:
            (artifact,) = self.ask("GET", f"/jobs/{job_id}/artifacts").json()["data"]
            self.ask("GET", f"/artifacts/{artifact['id']}/content")

    def work(self, everybody: "list[Tenant]", more: int) -> None:
        """Submit some more, then rounds until the day is over. What goes wrong is found, not lost with the thread."""
        others = [tenant for tenant in everybody if tenant is not self]
        steps = chain([partial(self.submit, more)], repeat(partial(self.use, others)))
        while not self.over.wait(ROUND_SECONDS):
            try:
                next(steps)()
            except Exception as error:  # noqa: BLE001  a finding, whatever it is
                self.wrong.append(f"{self.project}: {type(error).__name__}: {error}")
