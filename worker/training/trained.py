"""Reports what is trained of a model: LoRA on linear layers, and the modules that are trained in full."""

from typing import Any

from peft import PeftModel

from app.contracts.events import DataPrepared
from app.contracts.order import TrainingOrder
from worker.events import EventWriter

NAME = "default"
MARK = f".modules_to_save.{NAME}."


def trained_modules(order: TrainingOrder, model: Any) -> dict[str, Any]:
    """The lora fields that are really used: Unsloth moves embeddings and head to `modules_to_save`."""
    if not isinstance(model, PeftModel):
        return {}
    saved = model.peft_config[NAME].modules_to_save
    moved = {_leaf(name) for name in saved or ()}
    return {
        "lora.target_modules": [name for name in order.spec.lora.named_targets if _leaf(name) not in moved],
        "lora.modules_to_save": sorted(saved) if saved else None,
    }


def report_trained(order: TrainingOrder, model: Any, resolved: dict[str, Any], events: EventWriter) -> None:
    """Report the numbers of parameters, and write notices for target modules that are trained in full and for
    embeddings that are no longer tied."""
    trainable, total = count_parameters(model)
    events.write(DataPrepared(report={"parameters": {"trainable": trainable, "total": total}}))
    if not isinstance(model, PeftModel):
        return
    requested = order.spec.lora.named_targets
    moved = [name for name in requested if name not in resolved["lora.target_modules"]]
    whole = sum(parameter.numel() for name, parameter in model.named_parameters() if MARK in name)
    if moved:
        message = (
            f"{' and '.join(moved)} of lora.target_modules {'is' if len(moved) == 1 else 'are'} trained in full, not "
            f"by LoRA: {whole:,} of the {trainable:,} trained parameters belong to modules that are trained in full"
        )
        saved = resolved["lora.modules_to_save"]
        events.notice("trained_whole", message, field="lora.target_modules", requested=requested, effective=saved)
    if whole and _are_untied(model):
        message = (
            "embed_tokens and lm_head are one tensor in the base: the adapter trains a separate copy and no longer "
            "ties them"
        )
        field = "lora.target_modules" if moved else "lora.modules_to_save"
        events.notice("embeddings_untied", message, field=field, requested=moved or resolved["lora.modules_to_save"])


def count_parameters(model: Any) -> tuple[int, int]:
    """The numbers of trainable and of all parameters. Quantised weights count as before their quantisation."""
    if isinstance(model, PeftModel):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    return int(model.num_parameters(only_trainable=True)), int(model.num_parameters())


def _are_untied(model: Any) -> bool:
    """Whether the base ties its embeddings and the trained model does not."""
    entry, head = model.get_input_embeddings(), model.get_output_embeddings()
    return bool(model.config.tie_word_embeddings) and entry.weight.data_ptr() != head.weight.data_ptr()


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]
