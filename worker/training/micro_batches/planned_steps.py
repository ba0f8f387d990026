"""Takes optimizer steps whose rows are laid out in micro-batches by `worker.training.micro_batches.layout`.

The trainer's own batch is the whole step, and the loss of each micro-batch is the sum over its trained tokens divided
by those of the step, so that every layout has the same gradient.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from app.contracts.memory_model import Recomputation
from worker.training.micro_batches.layout import StepLayout
from worker.training.micro_batches.tensors import MicroBatch, StepRows, lay_out
from worker.training.random_state import RandomState

if TYPE_CHECKING:
    from worker.training.micro_batches.graphs import BodyGraphs  # imports Unsloth's kernels, which a CPU does not have
    from worker.training.ranks.group import Ranks

# Makes room after a step ran out of memory, or raises the error.
MakeRoom = Callable[["PlannedTrainer", StepRows, torch.OutOfMemoryError], None]
# What is done with the model right before the first step.
Trial = Callable[["PlannedTrainer", Any], None]


class PlannedTrainer(Trainer):  # type: ignore[misc]
    """Put in front of the trainers of methods that predict the next token. Every method overrides a hook of
    transformers. `per_device_train_batch_size` has to be all rows of a step, `gradient_accumulation_steps` one.
    """

    layout: StepLayout
    recomputation: Recomputation = False
    make_room: MakeRoom
    trial: Trial | None = None
    data_collator: Any
    train_dataset: Any
    graphs: "BodyGraphs | None" = None
    ranks: "Ranks | None" = None

    def get_train_dataloader(self) -> Any:
        collate, rows = self.data_collator, self.train_dataset
        self.data_collator, self.train_dataset = StepRows.collate, rows.with_format("numpy")
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator, self.train_dataset = collate, rows

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *_: Any, **__: Any) -> tuple[list[Any], None]:
        return [step for step in [next(epoch_iterator, None)] if step is not None], None

    def floating_point_ops(self, inputs: Any) -> float:  # noqa: ARG002  transformers would count padding
        return 0.0

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Log nothing: transformers would wait for the GPU. Our callback reports the points of the metrics."""
        if self.control.should_log:
            self._globalstep_last_logged = self.state.global_step
            self.control.should_log = False
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def training_step(self, model: Any, step: StepRows, *_: Any, **__: Any) -> torch.Tensor:
        """Accumulate the gradient of a step. Returns the mean loss of its trained tokens, as float32 on the device."""
        model.train()
        if self.trial is not None:
            self._begin(model, self.trial)
            self.trial = None
        if self.ranks is None:
            return self._computed(model, step)
        return self.ranks.add_up(self._computed(model, step.share(self.ranks.rank, self.ranks.count), step.targets))

    def _begin(self, model: Any, trial: Trial) -> None:
        if self.ranks is not None:
            self.ranks.join([one for one in model.parameters() if one.requires_grad])
        trial(self, model)

    def _computed(self, model: Any, step: StepRows, targets: int | None = None) -> torch.Tensor:
        """Compute the gradient of these rows, in smaller micro-batches if memory runs short."""
        before = RandomState()
        every = self.args.torch_empty_cache_steps
        while True:
            try:
                loss = self._accumulate(model, step, step.targets if targets is None else targets)
                if every is not None and self.state.global_step % every == 0:
                    torch.cuda.empty_cache()
                return loss
            except torch.OutOfMemoryError as error:
                model.zero_grad()
                self.make_room(self, step, error)
                before.restore()

    def _accumulate(self, model: Any, step: StepRows, targets_of_step: int) -> torch.Tensor:
        targets = torch.full((), max(1, targets_of_step), dtype=torch.float32, device=self.args.device)
        loss = torch.zeros((), dtype=torch.float32, device=self.args.device)
        if self.graphs is not None:
            self.graphs.begin_step()
        for micro_batch in lay_out(step, self.layout):
            loss += self._loss_and_gradient(model, micro_batch, targets)
        return loss

    def _loss_and_gradient(self, model: Any, micro_batch: MicroBatch, targets: torch.Tensor) -> torch.Tensor:
        if self.graphs is not None:
            return self.graphs.run(micro_batch, targets, lambda: self.compute_gradient(model, micro_batch, targets))
        return self.compute_gradient(model, micro_batch, targets)

    def compute_gradient(self, model: Any, micro_batch: MicroBatch, targets: torch.Tensor) -> torch.Tensor:
        """Add the gradient of a micro-batch and return its loss."""
        with self.compute_loss_context_manager():
            loss = self.loss_of(model, micro_batch, targets)
        self.accelerator.backward(loss)
        return loss.detach().float()

    def loss_of(self, model: Any, micro_batch: MicroBatch, targets: torch.Tensor) -> torch.Tensor:
        """The summed loss of a micro-batch's trained tokens, divided by `targets`."""
        arguments = micro_batch.arguments(self.args.device)
        if self.label_smoother is None:
            loss: torch.Tensor = model(**arguments, num_items_in_batch=targets).loss
            return loss
        labels = arguments.pop("labels")
        smoothed: torch.Tensor = self.label_smoother(
            model(**arguments), labels, shift_labels=True, num_items_in_batch=targets
        )
        return smoothed
