"""Finds faults of saving before the first step if possible, and otherwise reports them as what they are.

At the last step the weights are in a checkpoint, so that the next attempt repeats only what failed after it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from app.contracts.order import TrainingOrder
from worker.checkpoints import DiskFullFault, noticing_a_full_disk
from worker.events import EventWriter
from worker.failures import named
from worker.training.adapters import NAME
from worker.training.bundle import describe, is_whole_model

# These fields are set first when a config is rebuilt, since they decide whether the others are valid.
MODES = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate")


def repair_generation_config(model: Any, events: EventWriter) -> None:
    """Remove the fields of the base's generation config that transformers refuses to save, and write a notice."""
    config, left_out = without_contradictions(model.generation_config)
    if left_out:
        model.generation_config = config
        shown = ", ".join(f"{name} = {value}" for name, value in left_out.items())
        message = f"the base's generation_config.json contradicts itself and could not be saved: {shown} is left out"
        events.notice("generation_config_mended", message, field="model.model_name", requested=left_out)


def without_contradictions(config: GenerationConfig) -> tuple[GenerationConfig, dict[str, Any]]:
    """A config that can be saved, with as many of this one's fields as possible, and the values of the others."""
    if _can_be_saved(config):
        return config, {}
    fields = config.to_diff_dict()
    defaults, rebuilt, left_out = GenerationConfig(), GenerationConfig(), {}
    for name in sorted(fields, key=lambda name: name not in MODES):
        setattr(rebuilt, name, getattr(config, name))
        if not _can_be_saved(rebuilt):
            setattr(rebuilt, name, getattr(defaults, name, None))
            left_out[name] = fields[name]
    return rebuilt, left_out


def _can_be_saved(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True


def rehearse_saving(
    model: Any, tokenizer: PreTrainedTokenizerBase, order: TrainingOrder, resolved: dict[str, Any]
) -> None:
    """Write the bundle without its weights and probe to a temporary folder, and check that the weights would fit.

    Called before the first step. Raises SystemFault if the bundle could not be saved.
    """
    with named("save_failed", "the adapter could not be saved", "no step was trained; the log has the trace"):
        _check_room(model, order)
        with TemporaryDirectory(dir=order.adapter_dir.parent) as name:
            folder = Path(name)
            if is_whole_model(order.spec):
                model.config.save_pretrained(name)
                model.generation_config.save_pretrained(name)
            else:
                model.peft_config[NAME].save_pretrained(name)
            describe(model, tokenizer, order, resolved, folder)


def _check_room(model: Any, order: TrainingOrder) -> None:
    """Raises DiskFullFault if the weights do not fit on the disk: in the last step's checkpoint, then in the bundle."""
    weights = list(model.parameters())
    trained = _bytes(each for each in weights if each.requires_grad)
    needed = _bytes(weights) if is_whole_model(order.spec) else trained
    if order.resume_from is None:
        needed += trained
    free = shutil.disk_usage(order.adapter_dir.parent).free
    if free < needed:
        raise DiskFullFault(
            f"the trained weights will take {needed / 1e6:,.0f} MB on the disk, and {free / 1e6:,.0f} MB are free"
        )


def _bytes(weights: Any) -> int:
    return sum(each.numel() * each.element_size() for each in weights)


@contextmanager
def complete_or_absent(order: TrainingOrder) -> Iterator[None]:
    """Remove an incomplete bundle if the block fails. Raises DiskFullFault if it failed because the disk is full."""
    try:
        with noticing_a_full_disk(order.adapter_dir.parent):
            yield
    except BaseException:
        shutil.rmtree(order.adapter_dir, ignore_errors=True)
        raise
