"""Compares the spec with the values of the built objects, so that every fallback of a library is reported."""

from typing import Any

from app.contracts.memory_model import Recomputation
from app.contracts.order import TrainingOrder
from worker.events import EventWriter
from worker.training.arguments import Hardware, precision
from worker.training.trained import trained_modules

REASONS = {
    "training.optim": ("optimizer_replaced", "this optimizer needs a GPU; Unsloth's CPU backend uses its own AdamW"),
    "training.packing": ("packing_switched_off", "this attention cannot separate packed rows; they are padded instead"),
    "training.fp16": ("precision_replaced", "float16 is not used on this hardware"),
    "training.bf16": ("precision_replaced", "bfloat16 is not used on this hardware"),
    "model.load_in_4bit": ("loaded_in_16bit", "4-bit weights do not work here; Unsloth loads 16-bit weights"),
    "model.load_in_8bit": ("loaded_in_16bit", "8-bit weights do not work here; Unsloth loads 16-bit weights"),
    "model.dtype": ("precision_replaced", "this dtype is slow or unstable on this hardware; Unsloth uses another"),
    "model.max_seq_length": ("max_seq_length_cut", "the model supports no longer sequences"),
}


def effective_values(order: TrainingOrder, model: Any, args: Any, recomputation: Recomputation) -> dict[str, Any]:
    """The values that are really used, by dotted spec path."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point() and not p.requires_grad), model.dtype)
    by_steps = order.spec.training.max_steps is not None
    return {
        "model.load_in_4bit": bool(getattr(model, "is_loaded_in_4bit", False)),
        "model.load_in_8bit": bool(getattr(model, "is_loaded_in_8bit", False)),
        "model.max_seq_length": int(model.max_seq_length),
        "model.dtype": str(dtype).removeprefix("torch."),
        "lora.use_gradient_checkpointing": recomputation,
        "training.optim": _name(args.optim),
        "training.packing": bool(args.packing),
        "training.fp16": bool(args.fp16),
        "training.bf16": bool(args.bf16),
        "training.save_steps": order.spec.training.save_steps,
        "training.eval_strategy": _name(args.eval_strategy),
        "training.metric_for_best_model": order.spec.training.best_metric,
        "training.num_train_epochs": None if by_steps else float(args.num_train_epochs),
        "training.warmup_steps": 0 if args.lr_scheduler_type == "constant" else order.spec.training.warmup_steps,
        **trained_modules(order, model),
    }


def _name(value: Any) -> str:
    return str(getattr(value, "value", value))


def report_differences(order: TrainingOrder, values: dict[str, Any], hardware: Hardware, events: EventWriter) -> None:
    """Write a notice for every field of REASONS whose real value differs from the spec's."""
    fp16, bf16 = precision(order.spec, hardware)
    requested = {**_flat(order.spec.model_dump()), "training.fp16": fp16, "training.bf16": bf16}
    if requested["model.dtype"] in (None, "auto"):
        requested["model.dtype"] = values["model.dtype"]
    for field, (code, message) in REASONS.items():
        if requested[field] != values[field]:
            events.notice(code, message, field=field, requested=requested[field], effective=values[field])


def _flat(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{group}.{name}": value
        for group, fields in spec.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
    }
