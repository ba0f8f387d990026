"""A job from its config to the adapter's answer: real Celery, broker, database, Unsloth, TRL and a tiny real model."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.stack import BIASED_MODEL, MODEL, Stack
from tests.support.waiting import wait_for

STEPS = 20


@dataclass
class Trained:
    """One job from beginning to end, which several tests look at; `moving` is what GET /jobs said during step 2."""

    stack: Stack
    before: dict[str, Any]
    streamed: list[dict[str, Any]]
    moving: dict[str, Any]
    job: dict[str, Any]

    def stored(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("events", limit=1000)["data"]
        return found

    def get(self, what: str, **params: Any) -> Any:
        return self.stack.api.get(f"/jobs/{self.job['id']}/{what}", params=params).json()


@pytest.fixture(scope="module")
def trained(stack: Stack) -> Trained:
    before = stack.generate(model=MODEL).json()
    training = {"max_steps": STEPS, "learning_rate": 0.02, "warmup_steps": 1, "logging_steps": 1}
    job_id = stack.submit(training=training)
    streamed, moving = [], {}
    with stack.api.stream("GET", f"/jobs/{job_id}/stream", timeout=240) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                streamed.append(json.loads(line.removeprefix("data: ")))
                if streamed[-1]["kind"] == "step" and streamed[-1]["step"] == 2:
                    moving = stack.job(job_id)
    job = stack.wait(job_id, "succeeded", "failed")
    assert job["status"] == "succeeded", job["error"]
    return Trained(stack, before, streamed, moving, job)


def test_a_job_trains_an_adapter_that_answers_otherwise_than_the_base(trained: Trained) -> None:
    after = trained.stack.generate(adapter=trained.job["id"]).json()

    assert after["text"] != trained.before["text"]
    assert after["adapter"] == trained.job["adapter_id"]
    assert trained.stack.generate(model=MODEL).json()["text"] == trained.before["text"]


# What users of a pulled adapter run, where nothing of Tunesmith is.
PLAIN = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, chat = sys.argv[1], [{"role": "user", "content": "hello"}]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("tiny"), folder)
asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True), end="")
"""


def test_a_pulled_adapter_answers_without_the_service_as_with_it(
    trained: Trained, models: Path, tmp_path: Path
) -> None:
    answer = trained.stack.generate(adapter=trained.job["id"]).json()["text"]
    command = [sys.executable, "-m", "app.cli", "pull", trained.job["id"], "--to", str(tmp_path / "pulled")]
    subprocess.run([*command, "--url", str(trained.stack.api.base_url)], check=True)
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    asked = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "pulled")],
        cwd=models,  # where "tiny" is the base
        env={**plain, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert asked.stdout == answer


def test_a_job_says_how_far_it_is(trained: Trained) -> None:
    assert trained.moving["status"] == "running"
    assert trained.moving["progress"]["step"] >= 2
    assert trained.moving["progress"]["total_steps"] == STEPS
    assert trained.job["progress"]["percent"] == 100


def test_a_job_has_succeeded_only_with_the_proof_of_its_adapter(trained: Trained) -> None:
    events = trained.stored()
    phases = [event["phase"] for event in events if event["kind"] == "phase"]

    assert phases[-2:] == ["save", "verify"]
    assert [event["kind"] for event in events[-2:]] == ["verified", "status"]
    proof = trained.job["result"]["verification"]
    assert proof == events[-2]["proof"]
    assert proof["proved"]
    assert proof["difference"] <= proof["tolerance"]
    assert proof["base_difference"] > 0.1


def test_events_metrics_logs_and_the_stream_tell_the_same_run(trained: Trained) -> None:
    stored, metrics, log = trained.stored(), trained.get("metrics")["steps"], trained.get("logs")

    assert trained.streamed == stored
    assert [event["seq"] for event in stored] == list(range(1, len(stored) + 1))
    assert [point["step"] for point in metrics] == list(range(1, STEPS + 1))
    assert all(point["loss"] and point["grad_norm"] and point["tokens"] for point in metrics)
    assert "Unsloth" in log["text"]
    assert log["is_complete"]


def test_a_job_that_trains_biases_is_proved_and_answers_merged(embedded: Stack) -> None:
    model = {"model_name": BIASED_MODEL, "max_seq_length": 256, "load_in_4bit": False}
    before = embedded.generate(model=BIASED_MODEL).json()
    job = embedded.wait(embedded.submit(model=model, lora={"bias": "all"}), "succeeded", "failed")
    after = embedded.generate(adapter=job["id"]).json()

    assert job["status"] == "succeeded", job["error"]
    assert job["result"]["verification"]["proved"]
    assert after["adapter"] == job["adapter_id"]
    assert after["text"] != before["text"]
    assert embedded.generate(model=BIASED_MODEL).json()["text"] == before["text"]


def test_what_was_done_otherwise_than_asked_is_on_the_job(embedded: Stack) -> None:
    body = {"max_steps": 1, "optim": "adamw_8bit", "packing": True}
    job = embedded.wait(embedded.submit(training=body), "succeeded", "failed")
    notices = {notice["field"]: notice["effective"] for notice in job["notices"]}

    assert job["status"] == "succeeded", job["error"]
    assert notices["training.optim"] == job["resolved_spec"]["training"]["optim"] != "adamw_8bit"
    assert notices["training.packing"] is False
    assert job["spec"]["training"] == body


def test_a_running_job_is_cancelled_and_its_process_is_gone(embedded: Stack) -> None:
    job_id = embedded.submit(training={"max_steps": 5000})
    embedded.wait_for_step(job_id)
    embedded.api.post(f"/jobs/{job_id}/cancel")
    job = embedded.wait(job_id, "cancelled", seconds=20)

    assert job["attempts"][-1]["outcome"] == "cancelled"
    assert embedded.processes("worker.training", job_id) == []
    assert embedded.api.delete(f"/jobs/{job_id}").status_code == 200


def test_a_job_over_its_time_limit_fails_as_the_users(embedded: Stack) -> None:
    job_id = embedded.submit(training={"max_steps": 5000}, resources={"max_seconds": 1})
    job = embedded.wait(job_id, "failed", "succeeded")

    assert (job["error"]["category"], job["error"]["code"]) == ("user_error", "time_limit")


def test_evaluation_rows_are_evaluated(embedded: Stack) -> None:
    file_id = embedded.upload([{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(10)])
    job_id = embedded.submit(
        dataset={"source": {"file": file_id}, "eval_fraction": 0.2}, training={"max_steps": 2, "eval_steps": 1}
    )
    job = embedded.wait(job_id, "succeeded", "failed")
    evals = embedded.api.get(f"/jobs/{job_id}/metrics").json()["evals"]

    assert job["status"] == "succeeded", job["error"]
    assert job["data_report"]["eval"]["rows"] == 2
    assert [point["step"] for point in evals] == [1, 2]
    assert all(point["eval_loss"] > 0 for point in evals)


def test_a_job_that_stops_early_answers_with_its_best_step(embedded: Stack) -> None:
    """`greater_is_better` makes the first evaluation the best one, since the loss falls."""
    file_id = embedded.upload([{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(10)])
    best = {"load_best_model_at_end": True, "greater_is_better": True, "early_stopping_patience": 2}
    job_id = embedded.submit(
        dataset={"source": {"file": file_id}, "eval_fraction": 0.2},
        lora={"target_modules": "all-linear"},
        training={
            "max_steps": 50,
            "eval_steps": 1,
            "metric_for_best_model": "eval_loss",
            "report_to": "tensorboard",
            **best,
        },
    )
    job = embedded.wait(job_id, "succeeded", "failed")
    checkpoints = embedded.api.get(f"/jobs/{job_id}/checkpoints").json()["data"]

    assert job["status"] == "succeeded", job["error"]
    result, progress = job["result"], job["progress"]
    assert (result["steps"], result["stopped_early"]["step"]) == (3, 3)
    assert (result["adapter_step"], result["best"]["step"]) == (1, 1)
    assert (progress["step"], progress["percent"], progress["eta_seconds"]) == (3, 100.0, 0.0)
    assert [one["step"] for one in checkpoints if one["is_best"]] == [1]
    assert "q_proj" in job["resolved_spec"]["lora"]["target_modules"]
    assert embedded.generate(adapter=job_id).status_code == 200
    artifacts = embedded.api.get(f"/jobs/{job_id}/artifacts").json()["data"]
    (tracking,) = [one for one in artifacts if one["kind"] == "tracking"]
    files = embedded.api.get(f"/artifacts/{tracking['id']}").json()["files"]
    assert [file["name"].partition("/")[0] for file in files] == ["tensorboard"]
    assert 'tunesmith_jobs_ended_total{kind="train",status="succeeded"}' in embedded.api.get("/metrics").text


def test_all_weights_can_be_trained_and_answer_as_a_model_of_their_own(embedded: Stack) -> None:
    job_id = embedded.submit(model={"model_name": MODEL, "max_seq_length": 256, "full_finetuning": True})
    job = embedded.wait(job_id, "succeeded", "failed")

    assert job["status"] == "succeeded", job["error"]
    assert embedded.api.get(f"/adapters/{job['adapter_id']}").json()["kind"] == "full"
    assert embedded.generate(adapter=job_id).status_code == 200


def test_raw_text_is_trained_with_embeddings_and_head(embedded: Stack) -> None:
    file_id = embedded.upload([{"text": f"once upon a time {n}"} for n in range(8)])
    job_id = embedded.submit(
        dataset={"source": {"file": file_id}},
        lora={"target_modules": ["q_proj", "v_proj", "embed_tokens", "lm_head"]},
        training={"method": "cpt", "max_steps": 2, "embedding_learning_rate": 1e-5},
    )
    job = embedded.wait(job_id, "succeeded", "failed")

    assert job["status"] == "succeeded", job["error"]
    assert job["data_report"]["train"]["supervised_tokens"] == job["data_report"]["train"]["tokens"]
    assert embedded.generate(adapter=job_id, messages=None, prompt="once").status_code == 200


def test_an_engine_that_is_killed_is_a_503_and_comes_back(embedded: Stack) -> None:
    for pid in embedded.processes("worker.inference"):
        os.kill(pid, signal.SIGKILL)
    refused = wait_for("the engine is missed", lambda: unavailable(embedded.generate(model=MODEL)))
    wait_for("the engine answers again", lambda: embedded.generate(model=MODEL).status_code == 200, 90)

    assert refused.json()["error"]["code"] == "engine_unavailable"
    assert int(refused.headers["retry-after"]) > 0


def unavailable(answer: httpx.Response) -> httpx.Response | None:
    return answer if answer.status_code == 503 else None
