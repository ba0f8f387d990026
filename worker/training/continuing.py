"""Resumes from a checkpoint that may have been made with another spec: sets the position in the data and the rates.

transformers alone would count the position in steps of the present batch size, and take the checkpoint's rates.
"""

import math
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerState

from worker.failures import UserError
from worker.training.place import DataPosition, find_place
from worker.training.row_order import LengthGroupedRows

if TYPE_CHECKING:
    from worker.training.checkpointing import Checkpointer

STATE = "trainer_state.json"


class ContinuingTrainer(Trainer):  # type: ignore[misc]
    """The base of `ResumableTrainer`. Every public method overrides a hook of transformers."""

    checkpointer: "Checkpointer"
    _place: DataPosition | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        step_rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedRows(train_dataset or self.train_dataset, step_rows, self.args.seed)

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """Count epochs in rows, so that the steps still to do do not depend on the batch size of earlier steps."""
        *values, steps_in_epoch, max_steps = super().set_initial_training_values(args, dataloader)
        resumed = self.checkpointer.resumed
        if resumed is None:
            return (*values, steps_in_epoch, max_steps)
        self._place = place = self._find_place()
        _, steps_an_epoch, *_ = values
        done = place.epoch * steps_an_epoch + place.batches // args.gradient_accumulation_steps
        if args.max_steps <= 0:
            max_steps = resumed.step + max(0, math.ceil(args.num_train_epochs * steps_an_epoch) - done)
        if max_steps <= resumed.step and not self.checkpointer.resumes_own:
            raise UserError(
                "nothing_left",
                f"the checkpoint of step {resumed.step} has already completed all {args.num_train_epochs:g} epochs",
                hint="raise training.num_train_epochs: it includes the epochs before the checkpoint",
                param="training.num_train_epochs",
            )
        values[0] = math.ceil((done + max_steps - resumed.step) / steps_an_epoch)
        return (*values, steps_in_epoch, max_steps)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        counted: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        self.state.train_batch_size = self._train_batch_size  # not the checkpoint's
        return counted if self._place is None else (self._place.epoch, self._place.batches)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.checkpointer.resumes_own:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        requested = [(group["initial_lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule = self.lr_scheduler
        schedule.base_lrs = [rate for rate, _ in requested]
        schedule._last_lr = [
            rate * shape(schedule.last_epoch)
            for rate, shape in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, (rate, decay), now in zip(self.optimizer.param_groups, requested, schedule._last_lr, strict=True):
            group.update(initial_lr=rate, weight_decay=decay, lr=now)

    def _find_place(self) -> DataPosition:
        """Find the position in the data, and write a notice if rows are repeated or are not the checkpoint's."""
        checkpointer, rows = self.checkpointer, len(self.train_dataset)
        assert checkpointer.resumed is not None
        assert checkpointer.order.resume_from is not None
        if checkpointer.resumed.rows not in (None, checkpointer.rows):  # None: made by an earlier version
            checkpointer.events.notice(
                "other_rows",
                "the rows, training.seed, packing or train_sampling_strategy differ from the checkpoint's: the "
                f"training begins with the first row, and its steps are counted on from {checkpointer.resumed.step}",
                field="continue_from",
            )
            return DataPosition(0)
        state = TrainerState.load_from_json(str(checkpointer.order.resume_from / STATE))
        batch, accumulation = self._train_batch_size, self.args.gradient_accumulation_steps
        place = find_place(state.epoch, rows, state.train_batch_size, batch, accumulation)
        if place.repeated:
            checkpointer.events.notice(
                "rows_repeated",
                f"{place.repeated} rows of epoch {place.epoch + 1} are trained on again: the checkpoint is "
                f"{place.repeated} rows after a whole step of {batch * accumulation} rows, which is "
                "per_device_train_batch_size times gradient_accumulation_steps",
                field="continue_from",
                effective=place.repeated,
            )
        return place
