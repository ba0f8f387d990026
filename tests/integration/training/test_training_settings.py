"""What a training makes of its settings, and what it says of them: the real trainer, a process an attempt.

What the check can say of settings is in `tests/unit/contracts/test_no_effect.py`.
"""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.contracts.events import DataPrepared, Finished, Noticed, SpecResolved, StepLogged, StepTaken
from app.contracts.spec import JobSpec
from tests.support.prepared_rows import prepare
from tests.support.trainings import Job, a_trainers_base, reached
from worker.events import EventWriter
from worker.failures import UserError
from worker.stopping import INTERRUPTED
from worker.training.callback import NON_FINITE_STEPS, EventCallback
from worker.training.place import DataPosition, find_place
from worker.training.progress import PROGRESS, read_progress

ROWS = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model whose embeddings and head are one tensor."""
    with a_trainers_base(tmp_path_factory.mktemp("model")) as folder:
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(folder)
        yield folder


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepared(base, tmp_path_factory.mktemp("data"))


def prepared(base: Path, folder: Path, word: str = "row") -> dict[str, Path]:
    return prepare(base, folder, ({"text": f"{word} {n} of the data" * (n + 1)} for n in range(ROWS)), a_spec())


def a_spec(**groups: Any) -> JobSpec:
    plain = {"fp16": False, "bf16": False, "gradient_accumulation_steps": 1, "save_steps": None}
    body: dict[str, Any] = {
        "model": {"model_name": "tiny", "max_seq_length": 256, "dtype": "float32", "load_in_4bit": False},
        "dataset": {"source": {"path": "train.jsonl"}},
        "training": plain,
    }
    return JobSpec.model_validate({**body, **{name: {**body.get(name, {}), **group} for name, group in groups.items()}})


def test_the_last_step_counts_whatever_is_logged(base: Path, data: dict[str, Path], tmp_path: Path) -> None:
    job = Job(base, tmp_path, data, a_spec(training={"max_steps": 7, "logging_steps": 3}))

    assert job.run() == 0, job.log()

    logged = [event for event in job.attempts[0] if isinstance(event, StepLogged)]
    taken = [event for event in job.attempts[0] if isinstance(event, StepTaken)]
    assert [event.step for event in logged] == [3, 6, 7]
    assert (taken[0].step, taken[-1].step) == (1, 6)
    assert None not in (taken[0].loss, taken[0].grad_norm, taken[0].learning_rate)
    assert job.last(Finished).final_loss == pytest.approx(logged[-1].loss)


def test_a_loss_that_is_no_number_ends_a_job_that_logs_nothing(tmp_path: Path) -> None:
    state: Any = SimpleNamespace(global_step=1, epoch=0.1, max_steps=99)
    with EventWriter(tmp_path / "events.jsonl") as events:
        callback = EventCallback(events)
        for _ in range(NON_FINITE_STEPS - 1):
            callback.count(torch.tensor(torch.nan), 5)
            callback.end_step(state, 1e-3, 1.0, is_logged=False)

        callback.count(torch.tensor(torch.inf), 5)
        with pytest.raises(UserError, match="not finite in 3 steps in a row") as refused:
            callback.end_step(state, 1e-3, 1.0, is_logged=False)

    assert refused.value.failure.code == "loss_not_finite"


def test_modules_that_are_trained_whole_are_said_with_the_number_of_parameters(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    targets = ["q_proj", "lm_head"]
    job = Job(base, tmp_path, data, a_spec(lora={"target_modules": targets}, training={"max_steps": 1}))

    assert job.run() == 0, job.log()

    resolved, said = job.last(SpecResolved).values, [e for e in job.attempts[0] if isinstance(e, Noticed)]
    head = AutoModelForCausalLM.from_pretrained(base).lm_head.weight.numel()
    whole = next(notice for notice in said if notice.code == "trained_whole")
    assert (resolved["lora.target_modules"], resolved["lora.modules_to_save"]) == (["q_proj"], ["lm_head"])
    assert (whole.field, whole.requested, whole.effective) == ("lora.target_modules", targets, ["lm_head"])
    assert f"{head:,} of the {job.last(DataPrepared).report['parameters']['trainable']:,} trained" in whole.message
    assert "embeddings_untied" in job.notices()


@pytest.mark.parametrize(
    ("epoch", "batches", "expected"),
    [
        (4 / 12, (2, 2, 1), DataPosition(0, 2)),
        (8 / 12, (2, 4, 1), DataPosition(0, 2)),
        (2 + 4 / 6, (2, 2, 2), DataPosition(2, 4)),
        (1.0, (2, 6, 1), DataPosition(1)),
        (2 / 6, (2, 6, 1), DataPosition(0, 0, repeated=4)),
        (5 / 6, (2, 4, 1), DataPosition(0, 2, repeated=2)),
        (2 / 6, (2, 2, 4), DataPosition(0, 0, repeated=4)),
        (1 + 3 / 12, (1, 3, 1), DataPosition(1, 1)),
    ],
)
def test_a_place_in_the_data_is_counted_in_rows(
    epoch: float, batches: tuple[int, int, int], expected: DataPosition
) -> None:
    assert find_place(epoch, ROWS, *batches) == expected


@pytest.fixture(scope="module")
def checkpoint(base: Path, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Behind two steps of two rows each."""
    folder = tmp_path_factory.mktemp("origin")
    job = Job(base, folder, data, a_spec(training={"max_steps": 2, "save_steps": 2, "learning_rate": 1e-3}))
    assert job.run() == 0, job.log()
    return next(job.checkpoints.iterdir())


def test_a_checkpoint_of_an_earlier_version_does_not_say_which_rows_it_is_of(checkpoint: Path, tmp_path: Path) -> None:
    saved = json.loads((checkpoint / PROGRESS).read_text())
    (tmp_path / PROGRESS).write_text(json.dumps({name: saved[name] for name in saved if name != "rows"}))

    assert read_progress(tmp_path) == replace(read_progress(checkpoint), rows=None)


def test_behind_a_checkpoint_another_batch_size_goes_on_with_the_row_that_comes_next(
    base: Path, data: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    """Four of twelve rows are done: two steps of four rows end the epoch, and a stop changes nothing of that."""
    training = {"num_train_epochs": 4, "per_device_train_batch_size": 4, "learning_rate": 5e-4, "warmup_steps": 0}
    spec = a_spec(training=training)
    quiet, broken = (Job(base, tmp_path / name, data, spec, goes_on_from=checkpoint) for name in ("quiet", "broken"))

    assert quiet.run() == 0, quiet.log()
    assert broken.run(signal.SIGTERM, reached(3)) == INTERRUPTED, broken.log()
    assert broken.run() == 0, broken.log()

    assert [(step, epoch) for step, *_, epoch in quiet.steps()][:3] == [(3, 0.6667), (4, 1.0), (5, 1.3333)]
    assert [rate for _, _, rate, *_ in quiet.steps()] == pytest.approx([5e-4 * (13 - n) / 13 for n in range(2, 13)])
    assert (broken.steps(), broken.weights()) == (quiet.steps(), quiet.weights())
    assert quiet.notices() == ["optimizer_replaced"]


def test_behind_a_checkpoint_rows_that_are_trained_on_again_are_said(
    base: Path, data: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    training = {"max_steps": 5, "per_device_train_batch_size": 6, "save_steps": 1}
    job = Job(base, tmp_path / "six", data, a_spec(training=training), goes_on_from=checkpoint)
    other = Job(base, tmp_path / "other", data, a_spec(training={"max_steps": 3, "seed": 1}), goes_on_from=checkpoint)

    assert (job.run(), other.run()) == (0, 0), job.log() + other.log()

    assert [(step, epoch) for step, *_, epoch in job.steps()] == [(3, 0.5), (4, 1.0), (5, 1.5)]
    assert [one.notices()[-1] for one in (job, other)] == ["rows_repeated", "other_rows"]
    assert [(step, epoch) for step, *_, epoch in other.steps()] == [(3, 0.1667)]


def test_a_checkpoint_behind_all_epochs_leaves_nothing_to_train(
    base: Path, data: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    job = Job(base, tmp_path, data, a_spec(training={"num_train_epochs": 0.2}), goes_on_from=checkpoint)

    assert job.run() == 1
    assert job.attempts[0][-1].code == "nothing_left"  # type: ignore[union-attr]
