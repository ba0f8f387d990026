"""How soon an adapter answers once its job has succeeded. Prints one JSON object.

usage: python -m bench.first_token WORK_DIR [--model DIR] [--jobs 5]

Each job's stream is followed; its end is answered by one streamed question to its adapter. The engine has the base in
memory from the job's own proof (phase `verify`), whose seconds are told beside it. Without `--model` a tiny Llama is
made.
"""

import argparse
import json
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.stack import MODEL, Stack, running
from tests.support.tiny_model import build_tiny_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--jobs", type=int, default=5)
    options = parser.parse_args()
    work = options.work.resolve()
    model = options.model.resolve() if options.model else work / "models" / MODEL
    if options.model is None:
        build_tiny_model(model)
    with running(work / "home", {"TUNESMITH_MODELS_DIR": str(model.parent)}) as stack:
        jobs = [one_job(stack, model.name) for _ in range(options.jobs)]
    print(json.dumps({"jobs": jobs, **{name: middle_and_worst(jobs, name) for name in jobs[0]}}))


def one_job(stack: Stack, model: str) -> dict[str, float]:
    job_id = stack.submit(
        model={"model_name": model, "max_seq_length": 256, "load_in_4bit": False}, training={"max_steps": 2}
    )
    follow(stack, job_id)
    ended = time.monotonic()
    question = {"model": job_id, "prompt": "hello", "max_new_tokens": 4, "stream": True}
    with stack.api.stream("POST", "/generate", json=question) as answer:
        first = next(line for line in answer.iter_lines() if line.startswith("data:"))
        seconds = time.monotonic() - ended
    assert answer.status_code == 200, first
    return {"first_token_seconds": round(seconds, 3), "verify_seconds": round(seconds_of_verify(stack, job_id), 3)}


def follow(stack: Stack, job_id: str) -> None:
    """Read the job's stream to its end."""
    with stack.api.stream("GET", f"/jobs/{job_id}/stream", timeout=httpx.Timeout(400)) as stream:
        for _ in stream.iter_lines():
            pass
    job = stack.job(job_id)
    assert job["status"] == "succeeded", job["error"]


def seconds_of_verify(stack: Stack, job_id: str) -> float:
    events: list[dict[str, Any]] = stack.api.get(f"/jobs/{job_id}/events", params={"limit": 500}).json()["data"]
    began = next(event["at"] for event in events if event["kind"] == "phase" and event["phase"] == "verify")
    ended = next(event["at"] for event in events if event["kind"] == "verified")
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def middle_and_worst(jobs: list[dict[str, float]], name: str) -> dict[str, float]:
    values = [job[name] for job in jobs]
    return {"median": round(statistics.median(values), 3), "worst": max(values)}


if __name__ == "__main__":
    main()
