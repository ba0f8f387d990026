"""What can fail behind the last step: found out before the first one where it can be, and named where it cannot.

By then the weights are in a checkpoint of the last step, so that the next attempt repeats only what failed.
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

# These come first where a config is put together again: by them the other fields are right or wrong.
MODES = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate")


def mend_generation_config(model: Any, events: EventWriter) -> None:
    """Leave out of the base's generation config what transformers refuses to save, and say so."""
    config, left_out = without_contradictions(model.generation_config)
    if left_out:
        model.generation_config = config
        shown = ", ".join(f"{name} = {value}" for name, value in left_out.items())
        message = f"the base's generation_config.json contradicts itself and could not be saved: {shown} is left out"
        events.notice("generation_config_mended", message, field="model.model_name", requested=left_out)


def without_contradictions(config: GenerationConfig) -> tuple[GenerationConfig, dict[str, Any]]:
    """A config that can be saved, with all of this one's fields that allow it; and the others, as they were."""
    if _can_be_saved(config):
        return config, {}
    fields = config.to_diff_dict()
    usual, kept, left_out = GenerationConfig(), GenerationConfig(), {}
    for name in sorted(fields, key=lambda name: name not in MODES):
        setattr(kept, name, getattr(config, name))
        if not _can_be_saved(kept):
            setattr(kept, name, getattr(usual, name, None))
            left_out[name] = fields[name]
    return kept, left_out


def _can_be_saved(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True


def rehearse_saving(
    model: Any, tokenizer: PreTrainedTokenizerBase, order: TrainingOrder, resolved: dict[str, Any]
) -> None:
    """Write all of the bundle but its weights and its probe, and see that there is room for the weights.

    Raises SystemFault, before anything is trained.
    """
    with named("save_failed", "what is to be trained could not be saved", "no step was trained; the log has the trace"):
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
    """Raises DiskFullFault where the weights alone do not fit: in the bundle, or before in the last checkpoint."""
    weights = list(model.parameters())
    trained = _bytes(each for each in weights if each.requires_grad)
    needed = _bytes(weights) if is_whole_model(order.spec) else trained
    if order.resume_from is None:
        needed += trained
    free = shutil.disk_usage(order.adapter_dir.parent).free
    if free < needed:
        raise DiskFullFault(
            f"what is to be trained takes {needed / 1e6:,.0f} MB on the disk, and {free / 1e6:,.0f} are free"
        )


def _bytes(weights: Any) -> int:
    return sum(each.numel() * each.element_size() for each in weights)


@contextmanager
def whole_or_absent(order: TrainingOrder) -> Iterator[None]:
    """Leave no half of a bundle on the disk. Raises DiskFullFault where that is why the writing failed."""
    try:
        with noticing_a_full_disk(order.adapter_dir.parent):
            yield
    except BaseException:
        shutil.rmtree(order.adapter_dir, ignore_errors=True)
        raise
