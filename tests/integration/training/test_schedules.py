"""The learning rates that a spec asks for are those that transformers computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from app.contracts.order import BaseRef, TrainingOrder
from app.contracts.plan import plan_of
from tests.support.specs import a_spec
from worker.training.arguments import Hardware, trainer_arguments

STEPS, RATE = 60, 1e-3


def arguments(**training: Any) -> dict[str, Any]:
    names = ("train_rows", "tokenizer", "events", "work_dir", "adapter_dir", "checkpoints", "pulse")
    spec = a_spec(training={"learning_rate": RATE, "max_steps": STEPS, **training})
    base = BaseRef(source="org/model", is_local=False)
    paths = {name: Path("/job") / name for name in names}
    order = TrainingOrder(job_id="job-x", epoch=1, spec=plan_of(spec), base=base, eval_rows=None, **paths)
    return trainer_arguments(order, Hardware("cpu", supports_bf16=False), True, evaluates=False)


def rates(made: dict[str, Any]) -> list[float]:
    """The learning rate of every step, as transformers' trainer makes its schedule."""
    warmup = TrainingArguments(warmup_steps=made["warmup_steps"], use_cpu=True).get_warmup_steps(STEPS)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    kind, own = made["lr_scheduler_type"], made["lr_scheduler_kwargs"]
    schedule = get_scheduler(kind, optimizer, warmup, STEPS, scheduler_specific_kwargs=own)
    found = []
    for _ in range(STEPS):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(("training", "steps"), [({"warmup_ratio": 0.1}, 6), ({"warmup_ratio": 0}, 0), ({}, 5)])
def test_a_warm_up_has_as_many_steps_as_were_asked_for(training: dict[str, Any], steps: int) -> None:
    found = rates(arguments(lr_scheduler_type="constant_with_warmup", **training))

    assert [rate < RATE for rate in found] == [True] * steps + [False] * (STEPS - steps)


@pytest.mark.parametrize(
    ("kind", "own", "last"),
    [
        ("cosine", {"num_cycles": 1.0}, RATE),
        ("cosine_with_restarts", {"num_cycles": 3}, 0),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}, RATE / 10),
        ("cosine_with_min_lr", {"min_lr": 1e-5}, 1e-5),
        ("polynomial", {"power": 2.0, "lr_end": 1e-4}, 1e-4),
        ("inverse_sqrt", {"timescale": 100}, RATE * (100 / 154) ** 0.5),
        ("warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "linear", "min_lr_ratio": 0.5}, RATE / 2),
    ],
)
def test_a_schedule_uses_its_arguments(kind: str, own: dict[str, Any], last: float) -> None:
    found = rates(arguments(lr_scheduler_type=kind, lr_scheduler_kwargs=own))

    assert found[-1] == pytest.approx(last, abs=RATE / 15)
    assert found != rates(arguments(lr_scheduler_type=kind, lr_scheduler_kwargs={**own, **OTHER[kind]}))


OTHER: dict[str, dict[str, Any]] = {
    "cosine": {"num_cycles": 0.5},
    "cosine_with_restarts": {"num_cycles": 1},
    "cosine_with_min_lr": {"num_cycles": 0.25},
    "polynomial": {"power": 1.0},
    "inverse_sqrt": {"timescale": 10},
    "warmup_stable_decay": {"num_decay_steps": 20},
}


def test_the_notebooks_own_arguments_make_the_notebooks_schedule() -> None:
    found = rates(arguments(warmup_steps=5, lr_scheduler_type="linear"))

    assert found[:6] == pytest.approx([RATE * step / 5 for step in range(6)])
    assert found[-1] == pytest.approx(RATE / (STEPS - 5))
