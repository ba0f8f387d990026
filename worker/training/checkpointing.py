"""Writes checkpoints of a running training and resumes from them.

transformers writes weights, optimizer, schedule, random states and its own state; we add `StepCounters`. A resumed
training takes the same steps as an uninterrupted one, bit for bit if the kernels are deterministic.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from app.contracts.events import BestChanged, CheckpointRemoved, CheckpointSaved, Phase
from app.contracts.no_effect import StepTotals, by_steps, knows_steps
from app.contracts.order import TrainingOrder
from worker.checkpoints import drafting, intact_of_step, prune, publish
from worker.events import EventWriter
from worker.failures import SystemFault, named
from worker.stopping import Requests
from worker.training.adapters import read_adapter, set_adapter
from worker.training.callback import EventCallback, finite
from worker.training.continuing import ContinuingTrainer
from worker.training.evaluations import Evaluations, after, best_of
from worker.training.micro_batches.planned_steps import PlannedTrainer
from worker.training.micro_batches.tensors import StepRows
from worker.training.place import key_of_rows
from worker.training.progress import StepCounters, read_progress
from worker.training.random_state import RandomState
from worker.training.schedule import SaveSchedule


class EvaluationAbandoned(Exception):
    """A stop was requested during an evaluation between two steps. The next attempt repeats the evaluation."""


@dataclass
class Checkpointer:
    """The state of one attempt's checkpointing.

    `owes_evaluation`: an evaluation was due at `saved_step` and is not done. `evaluates_a_step`: one runs now, between
    two steps. `resumed`: the counters of the checkpoint, until they are restored.
    """

    order: TrainingOrder
    events: EventWriter
    requests: Requests
    figures: EventCallback
    schedule: SaveSchedule
    saved_step: int | None = None
    owes_evaluation: bool = False
    evaluates_a_step: bool = False
    resumed: StepCounters | None = None
    evaluations: Evaluations = field(default_factory=Evaluations)

    @cached_property
    def rows(self) -> str:
        """The key of the training rows and their order."""
        return key_of_rows(self.order)

    def resume(self) -> None:
        """Restore the counters of the order's checkpoint, if it has one. Raises SystemFault if it cannot read them."""
        if self.order.resume_from is None:
            return
        try:
            self.resumed = read_progress(self.order.resume_from)
        except (OSError, ValueError, TypeError) as error:
            raise SystemFault("checkpoint_unreadable", f"the checkpoint has no counters: {error}") from error
        self.figures.restore(self.resumed)
        self.saved_step = self.resumed.step
        if self.resumes_own:
            self.owes_evaluation = self.resumed.owes_evaluation
            self._resume_evaluations(self.resumed.evaluations)

    @property
    def resumes_own(self) -> bool:
        """Whether the order's checkpoint was made by this job."""
        return Path(self.order.resume_from or "").parent == self.order.checkpoints

    def _resume_evaluations(self, found: Evaluations) -> None:
        best = found.best_step
        if best is not None and intact_of_step(self.order.checkpoints, best) is None:
            message = f"the checkpoint of step {best}, the best so far, is gone or damaged: later ones count"
            self.events.notice("best_checkpoint_gone", message, field="training.metric_for_best_model")
            found = replace(found, best_step=None, best_value=None)
        self.evaluations = found
        if self.order.spec.training.best_metric is not None:
            self.events.write(BestChanged(best=best_of(found, self.order.spec.training)))

    def evaluated(self, step: int, metrics: dict[str, float]) -> Evaluations:
        """Take in an evaluation, and report it if it is the best."""
        arguments = self.order.spec.training
        value = None if arguments.best_metric is None else finite(metrics.get(arguments.best_metric))
        self.evaluations = after(self.evaluations, step, value, arguments)
        if self.evaluations.best_step == step:
            self.events.write(BestChanged(best=best_of(self.evaluations, arguments)))
        return self.evaluations

    def where_kept(self, step: int) -> str:
        """The hint for a training that did its last step but could not be saved: where its weights are."""
        if self.saved_step != step:
            return "the checkpoint of the last step could not be written either; the job's log has the trace"
        job = self.order.job_id
        return (
            f"the trained weights are kept in the checkpoint of step {step} (GET /jobs/{job}/checkpoints), which "
            f"answers as {job}@step-{step}; no step is trained again; the job's log has the trace"
        )

    def is_wanted(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether a save is due or was requested."""
        is_due = ends_epoch and self.order.spec.training.save_strategy == "epoch"
        is_requested = self.requests.checkpoint or self.requests.stop
        return is_due or is_requested or self.schedule.is_due(step, time.monotonic())

    def save(self, trainer: Any, write: Callable[[Path], Path]) -> None:
        """Publish a checkpoint. `write` gets a draft folder and returns the folder below it that holds the files.

        Raises DiskFullFault, and then leaves nothing of the draft.
        """
        started, step, attempt = time.monotonic(), trainer.state.global_step, self.order.epoch
        self.requests.checkpoint = False
        self.figures.catch_up()
        if isinstance(trainer, PlannedTrainer) and trainer.ranks is not None:
            trainer.ranks.check()
        folder = self.order.checkpoints
        with drafting(folder, step=step, attempt=attempt) as draft:
            content = write(draft)
            self._progress(trainer).write(content)
            saved = publish(content, folder, step=step, attempt=attempt)
        self.saved_step = step
        removed = prune(folder, self.order.spec.training.save_total_limit, self.evaluations.best_step)
        now = time.monotonic()
        self.schedule.saved(now, now - started)
        seconds = round(now - started, 3)
        self.events.write(
            CheckpointSaved(step=step, path=str(saved.path), bytes=saved.bytes, sha256=saved.sha256, seconds=seconds)
        )
        for old in removed:
            self.events.write(CheckpointRemoved(step=old.step, path=str(old.path)))

    def _progress(self, trainer: Any) -> StepCounters:
        is_planned = isinstance(trainer, PlannedTrainer)
        return StepCounters(
            step=trainer.state.global_step,
            tokens=self.figures.tokens,
            seconds=self.figures.seconds,
            final_loss=self.figures.final_loss,
            bad_steps=self.figures.bad_steps,
            window_loss=self.figures.window_loss,
            logged_step=trainer._globalstep_last_logged,
            total_loss=float(trainer._total_loss_scalar + trainer._tr_loss),
            owes_evaluation=self.owes_evaluation,
            rows=self.rows,
            evaluations=self.evaluations,
            micro_batch_tokens=trainer.layout.tokens if is_planned else None,
            recomputation=trainer.recomputation if is_planned else False,
        )


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Decides at the end of each step whether to log, evaluate, save or stop. It runs after transformers' own callback,
    which applies the intervals in steps. What is due after an epoch is done at the epoch's last step, before the
    checkpoint of that step: a training that resumes from it neither repeats nor misses it."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer
        self._pulse = checkpointer.order.pulse

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        # The checkpoint may be another job's, whose spec has other intervals.
        state.compute_steps(args, state.max_steps)
        order = self._checkpointer.order
        if not knows_steps(order.spec):
            for notice in by_steps(order.spec, StepTotals(state.max_steps, evaluates=order.eval_rows is not None)):
                self._checkpointer.events.write(notice)
        if self._checkpointer.resumes_own:
            args.eval_on_start = False
        self._checkpointer.schedule.begin(time.monotonic())

    def on_epoch_begin(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        self._checkpointer.requests.listen()  # not earlier: until the first step there is nothing to save

    def on_epoch_end(self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_log = control.should_evaluate = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._pulse.touch()
        checkpointer = self._checkpointer
        epoch = float(state.epoch or 0.0)
        if epoch.is_integer():
            control.should_log |= args.logging_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch" and args.eval_delay <= epoch
        if checkpointer.order.spec.training.early_stopping_patience is not None:
            control.should_log |= control.should_evaluate  # this step may be the last one
        # The last step has a checkpoint so that a failed save of the adapter can be repeated without training.
        is_wanted = checkpointer.is_wanted(state.global_step, ends_epoch=epoch.is_integer())
        control.should_save = is_wanted or state.global_step >= state.max_steps
        if state.global_step >= state.max_steps:
            control.should_evaluate = False  # the recipe evaluates at the end, with or without `eval_steps`
        elif checkpointer.requests.stop:
            control.should_training_stop = True
            checkpointer.owes_evaluation, control.should_evaluate = control.should_evaluate, False

    def on_prediction_step(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        self._pulse.touch()
        if self._checkpointer.requests.stop and self._checkpointer.evaluates_a_step:
            raise EvaluationAbandoned

    def on_save(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._checkpointer.requests.stop and state.global_step < state.max_steps:
            control.should_training_stop = True


class ResumableTrainer(ContinuingTrainer):
    """Put in front of TRL's and Unsloth's trainers by `resumable`. Every method overrides a hook of transformers."""

    _draft: Path | None = None
    _ended_step: int | None = None
    _after_owed_evaluation: RandomState | None = None

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Counts loss and tokens on the device, so that no step waits for a copy."""
        tokens = _tokens_of(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.checkpointer.figures.count(loss, tokens)
        return loss

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """transformers calls this at the end of each step, and again at the end of an epoch without a new step."""
        if self.state.global_step != self._ended_step:
            self._ended_step = self.state.global_step
            rate, is_logged = kwargs["learning_rate"], self.control.should_log
            self.checkpointer.figures.end_step(self.state, rate, grad_norm, is_logged=is_logged)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL would write a card into each checkpoint; the bundle's `tunesmith.json` says more."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._draft) if self._draft is not None else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.checkpointer.saved_step == self.state.global_step:
            return
        self.state.log_history = []  # the events are the history; this list would grow with every step

        def write(draft: Path) -> Path:
            self._draft = draft
            try:
                super(ResumableTrainer, self)._save_checkpoint(model, trial)
            finally:
                self._draft = None
            return draft / f"checkpoint-{self.state.global_step}"

        what = f"a checkpoint of step {self.state.global_step} could not be written"
        try:
            with named("checkpoint_failed", what, "the job's log has the trace"):
                self.checkpointer.save(self, write)
        except SystemFault as fault:
            if self.state.global_step < self.state.max_steps:
                raise
            self.checkpointer.events.notice("last_checkpoint_failed", f"{fault}; the adapter is saved without it")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save weights under this model's own names: names as on the hub cannot always be loaded again."""
        if output_dir is None or self._draft is None:
            super()._save(output_dir, state_dict)
        elif isinstance(self.model, PeftModel):
            self.model.save_pretrained(output_dir, save_embedding_layers=False)  # trained ones are in modules_to_save
        else:
            self.model.save_pretrained(output_dir, save_original_format=False)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if isinstance(self.model, PeftModel):
            set_adapter(self.model, read_adapter(Path(resume_from_checkpoint)))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Make missing and unexpected weights an error instead of a warning."""
        missing = {*load_result.missing_keys} - set(getattr(self.model, "all_tied_weights_keys", ()))
        differing = sorted(missing | {*load_result.unexpected_keys})
        if differing:
            names = ", ".join(differing[:5])
            raise SystemFault(
                "checkpoint_does_not_fit", f"the checkpoint and the model differ in {len(differing)}: {names}"
            )

    def _run_epoch(self, **epoch: Any) -> None:
        if self.checkpointer.resumed is not None:
            self._restore_window(self.checkpointer.resumed)
            self.checkpointer.resumed = None
        if self.checkpointer.owes_evaluation:
            self._evaluate_what_is_owed(epoch["resume_from_checkpoint"])
        elif self.checkpointer.evaluations.is_over:
            self._end_early()
        if self.state.global_step >= self.state.max_steps:  # transformers would take one more step
            self.control.should_training_stop = True
            return
        super()._run_epoch(**epoch)

    def _restore_window(self, resumed: StepCounters) -> None:
        self._ended_step = resumed.step
        self._globalstep_last_logged = resumed.logged_step
        self._total_loss_scalar = resumed.total_loss

    def _evaluate_what_is_owed(self, checkpoint: str) -> None:
        """Evaluate with the random states of the checkpoint, as a training would have that was not stopped."""
        super()._load_rng_state(checkpoint)
        self.checkpointer.owes_evaluation = False
        self.checkpointer.events.enter(Phase.EVAL)
        self._determine_best_metric(super()._evaluate(None, None), None)
        self._after_owed_evaluation = RandomState()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """transformers calls this right before the first step after the checkpoint."""
        if self._after_owed_evaluation is None:
            super()._load_rng_state(checkpoint)
        else:
            self._after_owed_evaluation.restore()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:  # noqa: ARG002
        """transformers calls this after each evaluation between two steps, right before it saves."""
        if not metrics:  # the evaluation was abandoned
            return False
        found = self.checkpointer.evaluated(self.state.global_step, metrics)
        is_best = bool(found.best_step == self.state.global_step)
        self.control.should_save |= is_best
        if found.is_over:
            self._end_early()
        return is_best

    def _end_early(self) -> None:
        """Make this step the last one. Like every last step it is a point of the metrics and has a checkpoint."""
        self.state.max_steps = self.state.global_step
        self.control.should_save = self.control.should_training_stop = True
        self.checkpointer.figures.end_early(self.state)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        self.checkpointer.figures.catch_up()
        before = RandomState()
        self.checkpointer.evaluates_a_step = True
        try:
            return super()._evaluate(*args, **kwargs)
        except EvaluationAbandoned:
            before.restore()
            self.checkpointer.owes_evaluation = True
            self.control.should_evaluate = False
            return {}
        finally:
            self.checkpointer.evaluates_a_step = False
            if self.checkpointer.requests.stop:
                self.control.should_save = self.control.should_training_stop = True


def resumable(trainer_classes: tuple[type[Any], ...], checkpointer: Checkpointer) -> type[Any]:
    """A subclass of the trainer and its mixins with `ResumableTrainer` in front of them."""
    name = "Resumable" + trainer_classes[-1].__name__
    return type(name, (ResumableTrainer, *trainer_classes), {"checkpointer": checkpointer})


def _tokens_of(inputs: Any) -> int | torch.Tensor:
    """The number of tokens without padding, of all rows of a step or of one micro-batch."""
    if isinstance(inputs, StepRows):
        return inputs.tokens
    mask = inputs.get("attention_mask")
    found: int | torch.Tensor = inputs["input_ids"].numel() if mask is None else mask.sum()
    return found
