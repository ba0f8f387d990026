"""Makes room for a step that ran out of GPU memory, one rung after another. The step is then repeated from its start.

    free the graphs ──> halve the micro-batches ──> ... ──> recompute and offload activations ──> the job's error

No rung changes what is learned: the rows of the step, its loss and its gradient stay the same.
"""

import gc
from typing import Any

import torch

from worker.events import EventWriter
from worker.failures import UserError
from worker.training.micro_batches.tensors import StepRows

CODE, FIELD = "gpu_memory_short", "training.layout"


class MemoryLadder:
    """Called with the trainer, the step and the error. `reason`: what was predicted of the memory, for the hint."""

    def __init__(self, events: EventWriter, reason: str | None) -> None:
        self._events, self._reason = events, reason

    def __call__(self, trainer: Any, step: StepRows, error: torch.OutOfMemoryError) -> None:
        """Take the next rung. Raises UserError if there is none left."""
        short = _shortage(trainer, step)
        smaller = trainer.layout.halved(step.longest)
        if trainer.graphs is not None and trainer.graphs.has_recorded:
            trainer.graphs.forget()
            self._tell(short, "recorded graphs are freed, and no more are recorded", "graphs freed")
        elif smaller is not None:
            trainer.layout = smaller
            self._tell(short, f"a micro-batch has at most {smaller.tokens} tokens from now on", smaller.tokens)
        elif trainer.recomputation != "unsloth":
            _recompute(trainer)
            self._tell(short, "activations are recomputed and offloaded to the host from now on", "recomputation")
        else:
            hint = "use a lower max_seq_length, 4-bit weights, a smaller base or a larger card"
            raise UserError(
                "out_of_gpu_memory",
                f"{short}, with one row at a time and all activations recomputed",
                hint=hint if self._reason is None else f"{hint}; predicted was: {self._reason}",
                param="model.max_seq_length",
            ) from error
        free_memory()

    def _tell(self, short: str, change: str, effective: Any) -> None:
        self._events.notice(CODE, f"{short}: {change}; the step is repeated", field=FIELD, effective=effective)


def _recompute(trainer: Any) -> None:
    """Compute activations again in the backward pass, and keep the inputs of layers in the memory of the host."""
    from unsloth import FastLanguageModel  # patches transformers, so it is not imported by every user of this module
    from unsloth_zoo.gradient_checkpointing import patch_unsloth_smart_gradient_checkpointing

    trainer.args.gradient_checkpointing, trainer.recomputation, trainer.graphs = True, "unsloth", None
    patch_unsloth_smart_gradient_checkpointing(dtype=torch.bfloat16 if trainer.args.bf16 else torch.float32)
    FastLanguageModel.for_training(trainer.model, use_gradient_checkpointing=True)


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _shortage(trainer: Any, step: StepRows) -> str:
    """What ran short, with figures."""
    found = (
        f"step {trainer.state.global_step + 1} with {step.tokens} tokens in micro-batches of at most "
        f"{trainer.layout.tokens} ran out of GPU memory"
    )
    if not torch.cuda.is_available():
        return found
    free, total = torch.cuda.mem_get_info()
    held, unit = torch.cuda.memory_allocated(), 2**30
    return f"{found} (of {total / unit:.1f} GiB {free / unit:.1f} free, {held / unit:.1f} held by tensors)"
