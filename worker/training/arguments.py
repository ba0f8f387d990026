"""Turns the spec's fields into keyword arguments of the library calls that they are named after."""

from dataclasses import dataclass
from typing import Any

from app.contracts.memory_model import Recomputation
from app.contracts.order import TrainingOrder
from app.contracts.schedules import ScheduleArgs
from app.contracts.spec import JobSpec
from app.contracts.trackers import TrackingArgs
from app.contracts.training_args import TrainingArgs

# Our callbacks and the checker do what these say. transformers would refuse or do some of them for its own checkpoints.
OURS = {
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "early_stopping_patience",
    "early_stopping_threshold",
    "assistant_only_loss",
}
# Unsloth has defaults of its own for these, which an explicit null would replace.
UNSLOTHS_DEFAULT = ("torch_empty_cache_steps", "eval_accumulation_steps")


@dataclass(frozen=True)
class Hardware:
    """The properties of the device on which `auto` values depend."""

    device: str
    supports_bf16: bool


def load_arguments(order: TrainingOrder, recomputation: Recomputation) -> dict[str, Any]:
    """For `FastLanguageModel.from_pretrained`. `dtype` is a name or None; the caller turns it into a torch dtype."""
    model, lora = order.spec.model, order.spec.lora
    return {
        "model_name": order.base.source,
        "revision": None if order.base.is_local else order.base.revision or model.revision,
        "max_seq_length": model.max_seq_length,
        "dtype": None if model.dtype == "auto" else model.dtype,
        "load_in_4bit": model.load_in_4bit,
        "load_in_8bit": model.load_in_8bit,
        "full_finetuning": model.full_finetuning,
        "use_gradient_checkpointing": recomputation,
        "random_state": lora.random_state,
        "use_exact_model_name": True,  # load the model that was checked, not Unsloth's copy of it
        "trust_remote_code": False,
        "use_safetensors": True,
    }


def lora_arguments(spec: JobSpec, recomputation: Recomputation) -> dict[str, Any]:
    """For `FastLanguageModel.get_peft_model`."""
    arguments = {**spec.lora.model_dump(), "use_gradient_checkpointing": recomputation}
    for name in ("layers_to_transform", "rank_pattern", "alpha_pattern"):
        if not arguments[name]:
            del arguments[name]
    if spec.lora.loftq_config is not None:
        arguments["init_lora_weights"] = "loftq"
    else:
        del arguments["loftq_config"]
    return {**arguments, "max_seq_length": spec.model.max_seq_length}


def trainer_arguments(
    order: TrainingOrder, hardware: Hardware, recomputation: Recomputation, *, evaluates: bool
) -> dict[str, Any]:
    """For the config of the method's trainer: the arguments that every method has."""
    spec, training = order.spec, order.spec.training
    own = {
        "method",
        "packing",
        "layout",
        "eval_steps",
        "output_dir",
        "embedding_learning_rate",
        "max_steps",
        "warmup_ratio",
        *TrackingArgs.model_fields,  # the trackers are told by `worker.training.tracking`
    }
    own |= {name for name in UNSLOTHS_DEFAULT if getattr(training, name) is None}
    fp16, bf16 = precision(spec, hardware)
    return {
        **training.model_dump(include=TrainingArgs.model_fields.keys() - own - OURS),
        "output_dir": str(order.work_dir / training.output_dir),
        "max_steps": training.max_steps or -1,
        "num_train_epochs": training.num_train_epochs or 1.0,
        # transformers takes a number below 1 as a share of all steps.
        "warmup_steps": training.warmup_steps if training.warmup_ratio is None else training.warmup_ratio,
        "lr_scheduler_kwargs": _schedule_arguments(training),
        "fp16": fp16,
        "bf16": bf16,
        "gradient_checkpointing": bool(recomputation),
        # Our callback decides when to save and how many are retained, since transformers knows nothing of manifests.
        "save_strategy": "no",
        "eval_strategy": training.eval_strategy_in_force if evaluates else "no",
        "eval_steps": training.eval_steps,
        "eval_on_start": training.eval_on_start and evaluates,
        "prediction_loss_only": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
    }


def sft_arguments(spec: JobSpec) -> dict[str, Any]:
    """For TRL's `SFTConfig`, or for Unsloth's subclass of it: the arguments that other configs do not have."""
    training = spec.training
    arguments: dict[str, Any] = {
        "max_length": spec.model.max_seq_length,
        "packing": training.packing,
        "dataset_num_proc": spec.dataset.dataset_num_proc,
        # The rows are already tokenised, so TRL only has to pack them.
        "dataset_kwargs": {"skip_prepare_dataset": not training.packing},
    }
    if training.embedding_learning_rate is not None:
        arguments["embedding_learning_rate"] = training.embedding_learning_rate
    return arguments


def _schedule_arguments(training: TrainingArgs) -> dict[str, Any]:
    arguments = (training.lr_scheduler_kwargs or ScheduleArgs()).model_dump(exclude_none=True)
    if training.lr_scheduler_type == "cosine_with_restarts" and "num_cycles" in arguments:
        arguments["num_cycles"] = int(arguments["num_cycles"])
    return arguments


def precision(spec: JobSpec, hardware: Hardware) -> tuple[bool, bool]:
    """(fp16, bf16): as the spec says, else as model.dtype says, else bf16 if the hardware supports it, else fp16.

    Unsloth refuses to train a float16 model in bf16, or a bfloat16 model in fp16.
    """
    fp16, bf16 = spec.training.fp16, spec.training.bf16
    if fp16 is not None or bf16 is not None:
        return bool(fp16), bool(bf16)
    if spec.model.dtype == "float32":
        return False, False
    is_half = spec.model.dtype == "float16" or not hardware.supports_bf16
    return is_half, not is_half


def step_arguments(training: TrainingArgs) -> dict[str, int]:
    """For the config of a trainer whose batch is all rows of an optimizer step."""
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 1}
