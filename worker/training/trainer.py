"""Builds the trainer of the spec's method from the rows that the checker made."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_caching
from transformers import PreTrainedTokenizerBase

from app.contracts.events import DataPrepared
from app.contracts.order import TrainingOrder
from app.contracts.rows import INPUT_IDS, LABELS
from app.contracts.spec import JobSpec
from worker.events import EventWriter
from worker.failures import UserError
from worker.training.arguments import Hardware, step_arguments, trainer_arguments
from worker.training.callback import EventCallback
from worker.training.checkpointing import CheckpointCallback, Checkpointer, resumable
from worker.training.micro_batches.cpu import spare_work
from worker.training.micro_batches.layout import PASS_TOKENS_ON_GPU, StepLayout, lengths_for
from worker.training.micro_batches.memory_ladder import MemoryLadder
from worker.training.micro_batches.memory_trial import MemoryTrial
from worker.training.micro_batches.planned_steps import PlannedTrainer
from worker.training.micro_batches.planning import Plan
from worker.training.packing_boundaries import check_packing_boundaries, may_pack
from worker.training.parts import is_planned, parts_of
from worker.training.ranks.group import Ranks


def build_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    evaluation: Dataset | None,
    order: TrainingOrder,
    hardware: Hardware,
    plan: Plan,
    callback: EventCallback,
    checkpointer: Checkpointer,
    ranks: Ranks | None = None,
) -> Any:
    """The trainer of the spec's method, with all arguments of the spec.

    Raises UserError if rows are packed and the model does not keep them apart.
    """
    parts, has_plan = parts_of(order), is_planned(order)
    arguments = {
        **trainer_arguments(order, hardware, plan.recomputation, evaluates=evaluation is not None),
        **parts.arguments,
        **(step_arguments(order.spec.training) if has_plan else {}),
    }
    mixins = (PlannedTrainer,) if has_plan else ()
    if ranks is not None and not has_plan:
        message = f"training.method {order.spec.training.method} trains on one GPU only"
        raise UserError("one_gpu_only", message, param="resources.gpus")
    is_first = ranks is None or ranks.rank == 0
    trainer = resumable((*mixins, parts.trainer_class), checkpointer)(
        model=model,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=evaluation,
        args=parts.config_class(**arguments),
        callbacks=[CheckpointCallback(checkpointer), callback] if is_first else [],
    )
    if torch.cuda.is_available():
        from worker.training.micro_batches.fast_path import use_flash_over_segments  # imports Unsloth's kernels

        use_flash_over_segments()
    packs = packs_rows(trainer, has_plan=has_plan)
    if has_plan:
        prepare_steps(trainer, order, plan, layout_on_this_device(trainer, plan.tokens, packs=packs))
        trainer.ranks = ranks
    return trainer


def packs_rows(trainer: Any, *, has_plan: bool) -> bool:
    """Whether rows may share a sequence. Raises UserError if they have to, and the model does not keep them apart."""
    try:
        check_packing_boundaries(trainer)
    except UserError as error:
        if trainer.args.packing or not has_plan:
            raise
        message = f"each row gets a padded sequence of its own: {error}"
        trainer.checkpointer.events.notice("rows_padded", message, field="training.layout")
        return False
    return may_pack(trainer)


def layout_on_this_device(trainer: Any, tokens: int, *, packs: bool) -> StepLayout:
    if not torch.cuda.is_available():
        return StepLayout(tokens, packs)
    args = trainer.args
    an_epoch = math.ceil(len(trainer.train_dataset) / args.train_batch_size)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * an_epoch)
    return StepLayout(tokens, packs, lengths_for(steps), PASS_TOKENS_ON_GPU)


def prepare_steps(trainer: Any, order: TrainingOrder, plan: Plan, layout: StepLayout) -> None:
    """Set how the trainer computes its steps."""
    trainer.layout, trainer.recomputation = layout, plan.recomputation
    trainer.checkpointer.figures.awaits_logs = False
    reason = None if plan.chosen is None else plan.chosen.reason
    trainer.make_room = MemoryLadder(trainer.checkpointer.events, reason)
    trainer.trial = MemoryTrial(plan, trainer.checkpointer.events)
    if layout.packs:
        os.environ["UNSLOTH_BLOCK_COMPILE"] = "0"  # it compiles for padded rows, for up to a minute
    if not torch.cuda.is_available():
        spare_work(trainer)
    if torch.cuda.is_available() and plan.may_record:
        from worker.training.micro_batches.fast_path import body_graphs  # imports Unsloth's kernels

        trainer.graphs = body_graphs(trainer.model, order.spec, trainer.args, trainer.args.per_device_train_batch_size)


def read_rows(path: Path | None, spec: JobSpec) -> Dataset | None:
    """The checker's rows, mapped into memory. They have ids and labels, so TRL neither renders nor masks them again."""
    if path is None:
        return None
    disable_caching()  # datasets then writes to a temporary folder: the rows' folder may not be written
    rows = Dataset.from_file(str(path)).select_columns([INPUT_IDS, LABELS, *spec.method.columns])
    rows._unsloth_truncated_to = spec.model.max_seq_length  # without this mark Unsloth pads rows that have ids already
    return rows


def report_packing(trainer: Any, train: Dataset, events: EventWriter) -> None:
    """Report how many packed rows the user's rows became, since steps count packed rows."""
    if trainer.args.packing:
        packed = {"rows": len(train), "packed_rows": len(trainer.train_dataset)}
        events.write(DataPrepared(report={"packing": packed}))
