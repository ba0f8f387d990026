"""What the two scripts share: the arguments of the page, the rows, and what is noted while one of them trains.

Import Unsloth before this module, if it is to be used.
"""

import time
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from app.contracts.rows import INPUT_IDS, LABELS
from bench.training.contracts import MeasuredStep, RunOrder, RunResult
from bench.training.meter import StepMeter

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALPHA = 16
SEED = 3407


def read_rows(order: RunOrder) -> Dataset:
    return Dataset.from_file(str(order.workload.rows)).select_columns([INPUT_IDS, LABELS])


def page_arguments(order: RunOrder) -> dict[str, Any]:
    """The page's arguments for `TrainingArguments`, but precision; no checkpoints, and no progress bar."""
    return {
        "per_device_train_batch_size": order.micro_batch,
        "gradient_accumulation_steps": order.accumulation,
        "warmup_steps": 5,
        "max_steps": order.workload.steps,
        "learning_rate": 2e-4,
        "logging_steps": 1,
        "optim": "adamw_8bit",
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "seed": SEED,
        "output_dir": str(order.folder / "outputs"),
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


class CountingCollator:
    """Counts the tokens of every micro-batch that another collator makes."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator
        self.tokens: list[int] = []

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        self.tokens.append(sum(len(example[INPUT_IDS]) for example in examples))
        return self._collator(examples)


class LossNotes(TrainerCallback):  # type: ignore[misc]
    """Notes when the training began, and the loss of every step."""

    def __init__(self) -> None:
        self.began_at = 0.0
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began_at = time.time()

    def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        if logs is not None and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def run(trainer: Any, order: RunOrder, meter: StepMeter, called_at: float) -> RunResult:
    """Train, and report the figures. `called_at`: when the script began to load the model."""
    collator, notes = CountingCollator(trainer.data_collator), LossNotes()
    trainer.data_collator = collator
    trainer.add_callback(notes)
    trainer.train()
    size = order.accumulation
    tokens = [sum(collator.tokens[at : at + size]) for at in range(0, size * order.workload.steps, size)]
    return RunResult(
        load_seconds=notes.began_at - called_at,
        first_step_seconds=meter.first_step_at - notes.began_at,
        first_step_tokens=tokens[0],
        first_loss=notes.losses[0],
        steps=[
            MeasuredStep(seconds=seconds, tokens=count, loss=loss)
            for seconds, count, loss in zip(meter.seconds, tokens[1:], notes.losses[1:], strict=True)
        ],
    )
