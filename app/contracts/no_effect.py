"""Finds settings that were sent but have no effect, or not the expected one: one notice for each. Defaults get none.

A rule is a pure function that returns a notice or None. Rules in `BY_SPEC` need only the spec, those in `BY_ROWS` also
the numbers of rows that the checker made, and those in `BY_STEPS` the number of optimizer steps.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.contracts.events import Noticed
from app.contracts.plan import JobPlan
from app.contracts.spec import LoraSpec

EMBEDDINGS = frozenset({"embed_tokens", "lm_head"})
# The kinds of optimizers that use these arguments.
ADAM = {"adam_beta1": ("adamw", "lion"), "adam_beta2": ("adamw", "lion"), "adam_epsilon": ("adamw",)}
# Fields of the lora group that are also arguments of `FastLanguageModel.from_pretrained`.
NOT_LORA_ALONE = frozenset({"use_gradient_checkpointing", "random_state"})


@dataclass(frozen=True)
class RowTotals:
    """The numbers of training and evaluation rows. `is_text`: the training rows are raw text."""

    train: int
    evaluation: int
    is_text: bool = False


@dataclass(frozen=True)
class StepTotals:
    """The number of optimizer steps, and whether there are rows to evaluate on."""

    steps: int
    evaluates: bool


def by_spec(spec: JobPlan) -> list[Noticed]:
    return _found(rule(spec) for rule in BY_SPEC)


def by_rows(spec: JobPlan, rows: RowTotals) -> list[Noticed]:
    """Apply the rules about rows, and those about steps if the number of steps follows from the rows."""
    found = _found(rule(spec, rows) for rule in BY_ROWS)
    if not knows_steps(spec):
        return found
    return [*found, *by_steps(spec, StepTotals(steps_of(spec, rows.train), evaluates=rows.evaluation > 0))]


def by_steps(spec: JobPlan, totals: StepTotals) -> list[Noticed]:
    return _found(rule(spec, totals) for rule in BY_STEPS)


def knows_steps(spec: JobPlan) -> bool:
    """Return False if only the trainer knows the number of steps: with packing, and after another job's checkpoint."""
    continues_a_job = spec.continue_from is not None and spec.continue_from.job is not None
    return spec.training.max_steps is not None or not (spec.training.packing or continues_a_job)


def steps_of(spec: JobPlan, rows: int) -> int:
    """Count the optimizer steps of so many rows, as transformers' `Trainer.set_initial_training_values` does."""
    if spec.training.max_steps is not None:
        return spec.training.max_steps
    return math.ceil((spec.training.num_train_epochs or 1.0) * _steps_an_epoch(spec, rows))


def _steps_an_epoch(spec: JobPlan, rows: int) -> int:
    return max(1, math.ceil(_batches_an_epoch(spec, rows) / spec.training.gradient_accumulation_steps))


def _batches_an_epoch(spec: JobPlan, rows: int) -> int:
    return math.ceil(rows / spec.training.per_device_train_batch_size)


def _found(notices: Iterable[Noticed | None]) -> list[Noticed]:
    return [notice for notice in notices if notice is not None]


def _warmup_unused(spec: JobPlan) -> Noticed | None:
    training = spec.training
    name = "warmup_steps" if training.warmup_ratio is None else "warmup_ratio"
    sent = getattr(training, name)
    if training.lr_scheduler_type != "constant" or not sent or not spec.is_sent(f"training.{name}"):
        return None
    message = (
        f'training.{name} is {sent:g}, and training.lr_scheduler_type "constant" has no warm-up: '
        f'every step has the whole learning rate of {training.learning_rate:g}; "constant_with_warmup" would use it'
    )
    return Noticed(code="warmup_unused", message=message, field=f"training.{name}", requested=sent, effective=0)


def _no_restarts(spec: JobPlan) -> Noticed | None:
    schedule = spec.training.lr_scheduler_kwargs
    cycles = None if schedule is None else schedule.num_cycles
    if spec.training.lr_scheduler_type != "cosine_with_restarts" or cycles not in (None, 1):
        return None
    message = (
        'training.lr_scheduler_type "cosine_with_restarts" has one cycle here, so that it never restarts: '
        'it is the same as "cosine"; lr_scheduler_kwargs.num_cycles says how many there should be'
    )
    return Noticed(
        code="no_restarts",
        message=message,
        field="training.lr_scheduler_type",
        requested="cosine_with_restarts",
        effective="cosine",
    )


def _adam_unused(spec: JobPlan) -> Noticed | None:
    training = spec.training
    used = {name for name, kinds in ADAM.items() if any(kind in training.optim for kind in kinds)}
    sent = sorted((ADAM.keys() - used) & spec.sent_in("training"))
    if not sent:
        return None
    names = ", ".join(f"training.{name}" for name in sent)
    have = "it has" if len(sent) == 1 else "they have"
    message = f'the optimizer "{training.optim}" does not use {names}: {have} no effect'
    return Noticed(code="adam_unused", message=message, field=f"training.{sent[0]}", requested=sent, effective=None)


def _lora_unused(spec: JobPlan) -> Noticed | None:
    sent = [name for name in LoraSpec.model_fields if name in spec.sent_in("lora") - NOT_LORA_ALONE]
    if not spec.model.full_finetuning or not sent:
        return None
    names = ", ".join(f"lora.{name}" for name in sent)
    message = (
        f"model.full_finetuning trains all weights and no LoRA: {names} {'has' if len(sent) == 1 else 'have'} no effect"
    )
    return Noticed(code="lora_unused", message=message, field="lora", requested=sent, effective=None)


def _embedding_rate_unused(spec: JobPlan) -> Noticed | None:
    lora, rate = spec.lora, spec.training.embedding_learning_rate
    if rate is None or spec.model.full_finetuning or lora.modules_to_save:
        return None
    if EMBEDDINGS & {name.rsplit(".", 1)[-1] for name in lora.named_targets}:
        return None
    message = (
        f"training.embedding_learning_rate is {rate:g}, and no embedding is trained: "
        "lora.target_modules or lora.modules_to_save would have to name embed_tokens or lm_head"
    )
    return Noticed(
        code="embedding_rate_unused", message=message, field="training.embedding_learning_rate", requested=rate
    )


def _train_on_unused(spec: JobPlan) -> Noticed | None:
    method, train_on = spec.method, spec.dataset.train_on
    if method.forced.get("train_on", train_on) == train_on or not spec.is_sent("dataset.train_on"):
        return None
    message = f'training.method "{method.name}" learns every token: dataset.train_on "{train_on}" has no effect'
    return _learns_all(spec, message)


def _assistant_only_of_text(spec: JobPlan, rows: RowTotals) -> Noticed | None:
    if not (rows.is_text and spec.training.assistant_only_loss):
        return None
    message = "the rows are raw text without turns: training.assistant_only_loss learns every token of them"
    field = "training.assistant_only_loss"
    return Noticed(code="assistant_only_loss_unused", message=message, field=field, requested=True, effective=False)


def _train_on_of_text(spec: JobPlan, rows: RowTotals) -> Noticed | None:
    dataset = spec.dataset
    is_unused = rows.is_text and "train_on" not in spec.method.forced and dataset.response_part is None
    if not is_unused or dataset.train_on == "all" or not spec.is_sent("dataset.train_on"):
        return None
    message = f'the rows are raw text without turns: dataset.train_on "{dataset.train_on}" learns every token of them'
    return _learns_all(spec, message)


def _learns_all(spec: JobPlan, message: str) -> Noticed:
    sent = spec.dataset.train_on
    return Noticed(code="train_on_unused", message=message, field="dataset.train_on", requested=sent, effective="all")


def _eval_batch_unused(spec: JobPlan) -> Noticed | None:
    field = "training.per_device_eval_batch_size"
    if spec.dataset.eval_source is not None or spec.dataset.eval_fraction > 0 or not spec.is_sent(field):
        return None
    size = spec.training.per_device_eval_batch_size
    message = f"{field} is {size}, and nothing is evaluated: that takes dataset.eval_fraction or dataset.eval_source"
    return Noticed(code="eval_batch_unused", message=message, field=field, requested=size)


def _worst_is_best(spec: JobPlan) -> Noticed | None:
    training = spec.training
    if not training.greater_is_better:
        return None
    message = (
        f"training.greater_is_better is true, and {training.best_metric} is a loss: the evaluation with the highest "
        "loss counts as the best"
    )
    return Noticed(
        code="worst_is_best", message=message, field="training.greater_is_better", requested=True, effective=True
    )


def _logging_steps_unused(spec: JobPlan) -> Noticed | None:
    field, strategy = "training.logging_steps", spec.training.logging_strategy
    if strategy == "steps" or not spec.is_sent(field):
        return None
    message = f'{field} is {spec.training.logging_steps}, and training.logging_strategy "{strategy}" does not use it'
    return Noticed(code="logging_steps_unused", message=message, field=field, requested=spec.training.logging_steps)


def _nothing_to_evaluate(spec: JobPlan, rows: RowTotals) -> Noticed | None:
    dataset = spec.dataset
    if rows.evaluation or not (dataset.eval_source is not None or dataset.eval_fraction > 0):
        return None
    field = "dataset.eval_fraction" if dataset.eval_source is None else "dataset.eval_source"
    what = f"{dataset.eval_fraction:g} of {rows.train} rows" if dataset.eval_source is None else "the evaluation set"
    message = (
        f"{field}: {what} leaves no row to evaluate on: the training is not evaluated; "
        "a larger eval_fraction, more rows or an eval_source would be"
    )
    requested = dataset.eval_fraction if dataset.eval_source is None else None
    return Noticed(code="no_evaluation_rows", message=message, field=field, requested=requested, effective=0)


def _batch_larger_than_rows(spec: JobPlan, rows: RowTotals) -> Noticed | None:
    field, size = "training.per_device_train_batch_size", spec.training.per_device_train_batch_size
    if spec.training.packing or size <= rows.train or not spec.is_sent(field):
        return None
    message = f"{field} is {size}, and there are {rows.train} rows: a batch has {rows.train}"
    return Noticed(code="batch_larger_than_data", message=message, field=field, requested=size, effective=rows.train)


def _accumulation_longer_than_epoch(spec: JobPlan, rows: RowTotals) -> Noticed | None:
    field, sent = "training.gradient_accumulation_steps", spec.training.gradient_accumulation_steps
    batches = _batches_an_epoch(spec, rows.train)
    if spec.training.packing or sent <= batches or not spec.is_sent(field):
        return None
    message = (
        f"{field} is {sent}, and in batches of {spec.training.per_device_train_batch_size} an epoch of "
        f"{rows.train} rows has only {batches}: an optimizer step takes no more"
    )
    return Noticed(
        code="accumulation_longer_than_epoch", message=message, field=field, requested=sent, effective=batches
    )


def _epochs_below_a_step(spec: JobPlan, rows: RowTotals) -> Noticed | None:
    epochs = spec.training.num_train_epochs
    if epochs is None or spec.training.packing:
        return None
    steps = _steps_an_epoch(spec, rows.train)
    if epochs * steps >= 1:
        return None
    message = (
        f"training.num_train_epochs is {epochs:g}, less than one optimizer step: the one step that is taken is "
        f"{1 / steps:g} of an epoch of {rows.train} rows"
    )
    return Noticed(
        code="epochs_below_a_step",
        message=message,
        field="training.num_train_epochs",
        requested=epochs,
        effective=1 / steps,
    )


def _warmup_longer_than_training(spec: JobPlan, totals: StepTotals) -> Noticed | None:
    """The rate of step n is (n - 1) / warmup_steps of the full one, see transformers' `get_scheduler`."""
    training, steps = spec.training, totals.steps
    if training.warmup_steps is None or training.warmup_steps < steps or training.lr_scheduler_type == "constant":
        return None
    if not spec.is_sent("training.warmup_steps"):
        return None
    highest = training.learning_rate * (steps - 1) / training.warmup_steps
    message = (
        f"training.warmup_steps is {training.warmup_steps}, and the training has {steps} steps: the learning rate "
        f"reaches {highest:.3g} at most, never the {training.learning_rate:g} of training.learning_rate"
    )
    return Noticed(
        code="warmup_longer_than_training",
        message=message,
        field="training.warmup_steps",
        requested=training.warmup_steps,
        effective=steps - 1,
    )


def _evaluated_too_late(spec: JobPlan, totals: StepTotals) -> Noticed | None:
    delay = spec.training.eval_delay
    if spec.training.eval_strategy_in_force != "steps" or delay <= totals.steps or not totals.evaluates:
        return None
    field = "training.eval_delay"
    message = f"{field} is {delay:g}, and the training has {totals.steps} steps: it is evaluated once, at its end"
    return Noticed(code="evaluated_at_the_end_only", message=message, field=field, requested=delay, effective=None)


def _interval_beyond_the_end(field: str, code: str, instead: str) -> "Callable[[JobPlan, StepTotals], Noticed | None]":
    """Make a rule for something that happens every few steps, but not within this training."""

    def rule(spec: JobPlan, totals: StepTotals) -> Noticed | None:
        every = getattr(spec.training, field)
        if not isinstance(every, int) or every <= totals.steps or not spec.is_sent(f"training.{field}"):
            return None
        if field == "eval_steps" and not totals.evaluates:  # `_nothing_to_evaluate` has a notice for that
            return None
        message = f"training.{field} is {every}, and the training has {totals.steps} steps: {instead}"
        return Noticed(code=code, message=message, field=f"training.{field}", requested=every, effective=None)

    return rule


def _run_name_unused(spec: JobPlan) -> Noticed | None:
    training = spec.training
    if training.run_name is None or training.report_to:
        return None
    message = "training.run_name is the name of a run in a tracker, and training.report_to names none"
    return Noticed(code="run_name_unused", message=message, field="training.run_name", requested=training.run_name)


BY_SPEC: tuple[Callable[[JobPlan], Noticed | None], ...] = (
    _warmup_unused,
    _no_restarts,
    _adam_unused,
    _lora_unused,
    _embedding_rate_unused,
    _train_on_unused,
    _eval_batch_unused,
    _worst_is_best,
    _logging_steps_unused,
    _run_name_unused,
)
BY_ROWS: tuple[Callable[[JobPlan, RowTotals], Noticed | None], ...] = (
    _train_on_of_text,
    _assistant_only_of_text,
    _nothing_to_evaluate,
    _batch_larger_than_rows,
    _accumulation_longer_than_epoch,
    _epochs_below_a_step,
)
BY_STEPS: tuple[Callable[[JobPlan, StepTotals], Noticed | None], ...] = (
    _warmup_longer_than_training,
    _evaluated_too_late,
    _interval_beyond_the_end("logging_steps", "logged_at_the_end_only", "the metrics have its last step only"),
    _interval_beyond_the_end("eval_steps", "evaluated_at_the_end_only", "it is evaluated once, at its end"),
    _interval_beyond_the_end(
        "save_steps",
        "no_checkpoints",
        "no checkpoint is written by itself; a pause, a stop or POST /jobs/{id}/checkpoint writes one",
    ),
)
