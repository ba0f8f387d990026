"""How a training goes on behind a checkpoint that another spec may have made: its place in the data, its rates.

transformers counts the place in steps of the present size, and takes the rates of the checkpoint.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerState

from worker.failures import UserError
from worker.training.place import DataPosition, find_place

if TYPE_CHECKING:
    from worker.training.checkpointing import Checkpointer

STATE = "trainer_state.json"


class ContinuingTrainer(Trainer):  # type: ignore[misc]
    """The base of `ResumableTrainer`. Every method is a hook of transformers."""

    keeper: "Checkpointer"
    _place: DataPosition | None = None

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """Epochs are counted in rows: what other steps have done of them is left out."""
        *values, steps_in_epoch, max_steps = super().set_initial_training_values(args, dataloader)
        resumed = self.keeper.resumed
        if resumed is None:
            return (*values, steps_in_epoch, max_steps)
        self._place = place = self._find_place()
        _, steps_an_epoch, *_ = values
        done = place.epoch * steps_an_epoch + place.batches // args.gradient_accumulation_steps
        if args.max_steps <= 0:
            max_steps = resumed.step + max(0, math.ceil(args.num_train_epochs * steps_an_epoch) - done)
        if max_steps <= resumed.step and not self._is_own:
            raise UserError(
                "nothing_left",
                f"the checkpoint of step {resumed.step} has all of the {args.num_train_epochs:g} epochs behind it",
                hint="raise training.num_train_epochs: it counts from the first row on",
                param="training.num_train_epochs",
            )
        values[0] = math.ceil((done + max_steps - resumed.step) / steps_an_epoch)
        return (*values, steps_in_epoch, max_steps)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        counted: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        self.state.train_batch_size = self._train_batch_size  # and not that of the checkpoint
        return counted if self._place is None else (self._place.epoch, self._place.batches)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self._is_own:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        asked = [(group["initial_lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule = self.lr_scheduler
        schedule.base_lrs = [rate for rate, _ in asked]
        schedule._last_lr = [
            rate * shape(schedule.last_epoch)
            for rate, shape in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, (rate, decay), now in zip(self.optimizer.param_groups, asked, schedule._last_lr, strict=True):
            group.update(initial_lr=rate, weight_decay=decay, lr=now)

    @property
    def _is_own(self) -> bool:
        """Whether the checkpoint is of this very job."""
        return Path(self.keeper.order.resume_from or "").parent == self.keeper.order.checkpoints

    def _find_place(self) -> DataPosition:
        """Says what is trained on again, and where the rows are other ones."""
        keeper, rows = self.keeper, len(self.train_dataset)
        assert keeper.resumed is not None
        assert keeper.order.resume_from is not None
        if keeper.resumed.rows not in (None, keeper.rows):  # those of earlier versions do not say
            keeper.events.notice(
                "other_rows",
                "the rows, training.seed or training.packing are not those of the checkpoint, so that it has no place "
                f"among them: the training begins with the first row, its steps go on behind {keeper.resumed.step}",
                field="continue_from",
            )
            return DataPosition(0)
        state = TrainerState.load_from_json(str(keeper.order.resume_from / STATE))
        batch, accumulation = self._train_batch_size, self.args.gradient_accumulation_steps
        place = find_place(state.epoch, rows, state.train_batch_size, batch, accumulation)
        if place.repeated:
            keeper.events.notice(
                "rows_repeated",
                f"{place.repeated} rows of epoch {place.epoch + 1} are trained on again: the checkpoint lies "
                f"{place.repeated} rows behind a whole step of {batch * accumulation} rows, which is "
                "per_device_train_batch_size times gradient_accumulation_steps",
                field="continue_from",
                effective=place.repeated,
            )
        return place
