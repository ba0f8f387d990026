"""Jobs that are killed, paused and handed on: real Celery, broker, database, Unsloth and a tiny real model.

In float32 on a CPU a run that was interrupted leaves, to the bit, what a quiet one leaves.
"""

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.e2e.stack import MODEL, Stack, running
from tests.support.waiting import wait_for

# Long enough that a test sees it at work on a fast machine.
STEPS = 120
EXACT: dict[str, Any] = {
    "model": {"model_name": MODEL, "max_seq_length": 256, "load_in_4bit": False, "dtype": "float32"},
    "lora": {"lora_dropout": 0.1},
    "training": {"max_steps": STEPS, "learning_rate": 0.005, "save_steps": 4, "fp16": False, "bf16": False},
}
FIGURES = ("step", "loss", "learning_rate", "grad_norm", "tokens", "epoch")


def kill(stack: Stack, *words: str) -> None:
    for pid in stack.processes(*words):
        os.kill(pid, signal.SIGKILL)


def curve(stack: Stack, job_id: str) -> list[tuple[Any, ...]]:
    steps = stack.api.get(f"/jobs/{job_id}/metrics").json()["steps"]
    return [tuple(point[name] for name in FIGURES) for point in steps]


def weights(stack: Stack, job: dict[str, Any]) -> str:
    adapter_id, _, version = job["result"]["adapter"].partition("@")
    path = stack.home / "adapters" / adapter_id / version / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trainings(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [attempt for attempt in job["attempts"] if attempt["stage"] == "train"]


@pytest.fixture(scope="module")
def quiet(stack: Stack) -> dict[str, Any]:
    """A job that nothing has interrupted."""
    return stack.wait(stack.submit(**EXACT), "succeeded", "failed")


def assert_ended_as(stack: Stack, expected: dict[str, Any], job: dict[str, Any], saved: int) -> None:
    """The last attempt of `job` went on behind a checkpoint, no older than the one of step `saved`."""
    tries = trainings(job)
    assert (expected["status"], job["status"]) == ("succeeded", "succeeded"), (expected["error"], job["error"])
    assert curve(stack, job["id"]) == curve(stack, expected["id"])
    assert len(curve(stack, job["id"])) == STEPS
    assert weights(stack, job) == weights(stack, expected)
    assert tries[-1]["outcome"] == "finished"
    assert "worker_lost" in [attempt["outcome"] for attempt in tries]
    assert [attempt["resume_step"] for attempt in tries] == sorted(attempt["resume_step"] for attempt in tries)
    assert tries[-1]["resume_step"] >= saved


def kill_worker(stack: Stack, job_id: str) -> None:
    trainers = stack.processes("-m worker.training", job_id)
    kill(stack, "celery", "trainer0")
    wait_for("the trainer is gone", lambda: not set(trainers) & set(stack.processes("-m worker.training", job_id)))


def test_a_job_whose_worker_is_killed_ends_as_a_quiet_one(stack: Stack, quiet: dict[str, Any]) -> None:
    broken = stack.submit(**EXACT)
    stack.wait_for_step(broken, 10)
    kill_worker(stack, broken)

    assert_ended_as(stack, quiet, stack.wait(broken, "succeeded", "failed"), 4)


def test_a_job_that_is_killed_three_times_ends_as_a_quiet_one(stack: Stack, quiet: dict[str, Any]) -> None:
    """Its trainer, its guardian with it, and its worker."""
    broken = stack.submit(**EXACT)
    stack.wait_for_step(broken, 10)
    kill(stack, "-m worker.training", broken)
    stack.wait_for_step(broken, 45)
    kill(stack, "guardian_process.py", "worker.training", broken)
    stack.wait_for_step(broken, 80)
    kill_worker(stack, broken)

    assert_ended_as(stack, quiet, stack.wait(broken, "succeeded", "failed"), 76)


def test_a_paused_job_goes_on_at_the_same_step(embedded: Stack) -> None:
    job_id = embedded.submit(**EXACT)
    embedded.wait_for_step(job_id, 3)
    asked = embedded.api.post(f"/jobs/{job_id}/pause").json()
    paused = embedded.wait(job_id, "paused", "succeeded")
    stopped_at = embedded.api.get(f"/jobs/{job_id}/checkpoints").json()["data"][0]["step"]
    embedded.api.post(f"/jobs/{job_id}/resume")
    job = embedded.wait(job_id, "succeeded", "failed")

    assert asked["pause_requested"]
    assert paused["status"] == "paused"
    assert embedded.processes("-m worker.training", job_id) == []
    assert [attempt["resume_step"] for attempt in trainings(job)] == [0, stopped_at]
    assert [point[0] for point in curve(embedded, job_id)] == list(range(1, STEPS + 1))


def test_a_worker_that_is_stopped_hands_its_job_on_behind_a_checkpoint(embedded: Stack) -> None:
    job_id = embedded.submit(**EXACT)
    embedded.wait_for_step(job_id, 3)
    for pid in embedded.processes("celery", "trainer0"):
        os.kill(pid, signal.SIGTERM)
    job = embedded.wait(job_id, "succeeded", "failed")
    tries = trainings(job)

    assert job["status"] == "succeeded", job["error"]
    assert [attempt["outcome"] for attempt in tries] == ["worker_stopped", "finished"]
    assert tries[1]["resume_step"] >= 3
    assert [point[0] for point in curve(embedded, job_id)] == list(range(1, STEPS + 1))


def test_a_checkpoint_that_is_asked_for_can_be_gone_on_from_by_another_job(embedded: Stack) -> None:
    first = embedded.submit(**{**EXACT, "training": {**EXACT["training"], "save_steps": None}})
    embedded.wait_for_step(first, 2)
    assert embedded.api.post(f"/jobs/{first}/checkpoint").status_code == 202
    done = embedded.wait(first, "succeeded", "failed")
    saved = embedded.api.get(f"/jobs/{first}/checkpoints").json()["data"]
    asked = saved[-1]
    second = embedded.submit(**EXACT, continue_from={"job": first, "step": asked["step"]})
    job = embedded.wait(second, "succeeded", "failed")

    assert (done["status"], job["status"]) == ("succeeded", "succeeded"), (done["error"], job["error"])
    assert [one["step"] for one in saved] == [STEPS, asked["step"]]
    assert [point[0] for point in curve(embedded, second)] == list(range(asked["step"] + 1, STEPS + 1))
    assert weights(embedded, job) == weights(embedded, done)


def test_a_job_answers_with_its_newest_checkpoint_until_it_has_an_adapter(embedded: Stack, models: Path) -> None:
    training = {**EXACT["training"], "max_steps": 240, "save_steps": 50, "save_total_limit": 50}
    job_id = embedded.submit(**{**EXACT, "training": training})
    early = embedded.generate(model=job_id)
    embedded.wait_for_step(job_id, 60)
    first = ask_ids(embedded, job_id)
    embedded.wait_for_step(job_id, 160)
    second, status = ask_ids(embedded, job_id), embedded.job(job_id)["status"]
    again = ask_ids(embedded, f"{job_id}@step-{first['checkpoint']['step']}")
    done = embedded.wait(job_id, "succeeded", "failed")
    last = ask_ids(embedded, job_id)

    assert (early.status_code, early.json()["error"]["code"]) == (409, "job_has_no_adapter")
    assert status == "running"
    assert 50 <= first["checkpoint"]["step"] < second["checkpoint"]["step"] < 240
    for answer in (first, second):
        assert answer["model"] == f"{job_id}@step-{answer['checkpoint']['step']}"
        assert not answer["checkpoint"]["proved"]
        folder = next(embedded.home.glob(f"jobs/{job_id}/checkpoints/step-*{answer['checkpoint']['step']}-attempt-*"))
        assert scores_of(answer) == pytest.approx(plain_scores(models / MODEL, folder, ids_of(answer)), abs=1e-4)
    assert scores_of(first) != pytest.approx(scores_of(second), abs=1e-3)
    assert (ids_of(again), again["checkpoint"]) == (ids_of(first), first["checkpoint"])
    assert (last["model"], last["checkpoint"]) == (done["result"]["adapter"], None)


PROMPT = [1, 87, 85, 263, 201, 60, 61]


def ask_ids(stack: Stack, model: str) -> dict[str, Any]:
    """A greedy answer with the log-probability of each token."""
    answer = stack.generate(model=model, messages=None, prompt_token_ids=PROMPT, logprobs=0, ignore_eos=True)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids_of(answer: dict[str, Any]) -> list[int]:
    return [token["id"] for token in answer["logprobs"]]


def scores_of(answer: dict[str, Any]) -> list[float]:
    return [token["logprob"] for token in answer["logprobs"]]


def plain_scores(base: Path, checkpoint: Path, answer: list[int]) -> list[float]:
    """What plain PEFT gives the tokens of the answer with the weights of a checkpoint, and that it would say them."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), checkpoint)
    ids = torch.tensor([PROMPT + answer])
    with torch.no_grad():
        scores = model(input_ids=ids).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    assert scores.argmax(-1).tolist() == answer
    return [float(score[token]) for score, token in zip(scores, answer, strict=True)]


def test_an_adapter_can_be_gone_on_from(embedded: Stack) -> None:
    first = embedded.wait(embedded.submit(), "succeeded", "failed")
    more = embedded.submit(
        continue_from={"adapter": first["adapter_id"]}, training={"max_steps": 2, "logging_steps": 1}
    )
    embedded.wait(more, "succeeded", "failed")
    losses = [curve(embedded, job_id)[0][1] for job_id in (first["id"], more)]

    assert losses[1] < losses[0] * 0.9


def test_everything_killed_at_once_comes_back(models: Path, tmp_path: Path) -> None:
    """`kill -9` of `tunesmith up` itself takes all of its processes along; the next one goes on with the job."""
    env = {"TUNESMITH_MODELS_DIR": str(models)}
    with running(tmp_path / "home", env) as stack:
        job_id = stack.submit(**EXACT)
        stack.wait_for_step(job_id, 6)
        stack.process.kill()
        stack.process.wait()
        wait_for("nothing is left running", lambda: not stack.processes())
    with running(tmp_path / "home", env) as stack:
        job = stack.wait(job_id, "succeeded", "failed")

        assert job["status"] == "succeeded", job["error"]
        assert trainings(job)[-1]["resume_step"] >= 4
        assert [point[0] for point in curve(stack, job_id)] == list(range(1, STEPS + 1))
