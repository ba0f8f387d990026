"""Evaluations decide: which step the adapter is of, and when the training ends. An interrupted training decides alike.

`greater_is_better` makes the first evaluation the best one, since the loss falls.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.contracts.events import (
    AdapterSaved,
    AttemptInterrupted,
    BestChanged,
    CheckpointSaved,
    Finished,
    StepEvent,
)
from app.contracts.spec import JobSpec
from tests.integration.training.test_resume import CHATS, a_spec, many_rows
from tests.support.prepared_rows import prepare
from tests.support.trainings import Job, reached
from worker.checkpoints import of_step
from worker.stopping import INTERRUPTED

WORST = {"metric_for_best_model": "eval_loss", "greater_is_better": True}


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare(base, tmp_path_factory.mktemp("data"), [{"messages": chat} for chat in CHATS], a_spec())


def evaluated(**training: Any) -> JobSpec:
    dataset = {"source": {"path": "train.jsonl"}, "eval_fraction": 0.1}
    return a_spec(dataset=dataset, lora={"lora_dropout": 0.1}, training={"per_device_eval_batch_size": 2, **training})


def in_evaluation_after(step: int) -> Callable[[str], bool]:
    """The next evaluation after that of this step has begun."""
    done = f'"kind":"eval","step":{step},'
    return lambda text: done in text and text.rfind('"phase":"eval"') > text.index(done)


def kept_steps(job: Job) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in job.checkpoints.iterdir())


def test_the_adapter_is_that_of_the_best_evaluation_whose_checkpoint_outlives_newer_ones(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    spec = evaluated(
        max_steps=12, eval_steps=3, save_strategy="epoch", save_steps=None, save_total_limit=1,
        load_best_model_at_end=True, eval_on_start=True, logging_strategy="epoch", logging_first_step=True, **WORST,
    )  # fmt: skip
    job = Job(base, tmp_path, data, spec, data["train_rows"])

    assert job.run() == 0, job.log()

    assert [step for step, _ in job.evaluations()] == [0, 3, 6, 9, 12]
    assert [step for step, *_ in job.steps()] == [1, 11, 12]
    saved = [event.step for event in job.attempts[0] if isinstance(event, CheckpointSaved)]
    assert (saved, kept_steps(job)) == ([3, 11, 12], [3, 12])
    bundle, best = Path(job.last(AdapterSaved).path), of_step(job.checkpoints, 3)
    assert best is not None
    served, kept = (load_file(folder / "adapter_model.safetensors") for folder in (bundle, best))
    assert all(torch.equal(served[name], kept[name]) for name in served)
    finished = job.last(Finished)
    assert (finished.steps, finished.adapter_step, finished.stopped_early) == (12, 3, None)
    assert (finished.best.step, finished.best.value) == job.evaluations()[1]
    assert job.notices().count("best_step_loaded") == 1
    assert [event.best for event in job.attempts[0] if isinstance(event, BestChanged)] == [finished.best]


def test_stopped_and_killed_a_job_ends_as_early_and_has_the_same_best_as_a_quiet_one(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    """Killed before its best evaluation and after it, and stopped in the evaluation that ends it, at an epoch's end."""
    spec = evaluated(
        num_train_epochs=8, max_steps=None, eval_strategy="epoch", save_steps=4, logging_steps=5, eval_on_start=True,
        early_stopping_patience=2, load_best_model_at_end=True, train_sampling_strategy="group_by_length", **WORST,
    )  # fmt: skip
    rows = many_rows(data["train_rows"], tmp_path)
    quiet, broken = (Job(base, tmp_path / name, data, spec, rows) for name in ("quiet", "broken"))

    assert quiet.run() == 0, quiet.log()
    codes = [
        broken.run(signal.SIGKILL, reached(5)),
        broken.run(signal.SIGKILL, reached(15)),
        broken.run(signal.SIGTERM, in_evaluation_after(22)),
    ]
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, INTERRUPTED], (codes, broken.log())
    assert broken.last(AttemptInterrupted).step == 33
    assert broken.run() == 0, broken.log()

    assert [step for step, _ in quiet.evaluations()] == [0, 11, 22, 33]
    ends = [job.last(Finished) for job in (broken, quiet)]
    assert [(end.steps, end.adapter_step) for end in ends] == [(33, 11)] * 2
    of_both = [(end.best, end.stopped_early, end.tokens) for end in ends]
    assert of_both[0] == of_both[1]
    assert "in 2 evaluations in a row" in ends[0].stopped_early
    assert (broken.steps(), broken.evaluations()) == (quiet.steps(), quiet.evaluations())
    assert [step for step, *_ in quiet.steps()] == [5, 10, 11, 15, 20, 22, 25, 30, 33]
    assert broken.weights() == quiet.weights()
    shown = [[event for event in job.attempts[-1] if isinstance(event, StepEvent)][-1] for job in (broken, quiet)]
    assert [(event.step, event.total_steps) for event in shown] == [(33, 33)] * 2
