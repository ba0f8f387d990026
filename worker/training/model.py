"""Loads the model to train and adds LoRA, through Unsloth.

Import this module before transformers, which Unsloth patches.
"""

from pathlib import Path
from typing import Any

import unsloth  # noqa: F401  # isort: skip  # must come first
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from unsloth import FastLanguageModel, is_bfloat16_supported

from app.contracts.memory_model import Recomputation
from app.contracts.order import BASE_REPLACED, TrainingOrder
from app.contracts.spec import JobSpec
from worker.base_files import BaseFiles, own_memory
from worker.failures import SystemFault, UserError
from worker.rope import linear_rope
from worker.targets import check_targets
from worker.training.arguments import Hardware, load_arguments, lora_arguments


def find_hardware() -> Hardware:
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return Hardware(device=device, supports_bf16=bool(is_bfloat16_supported()))


def load_base(order: TrainingOrder, recomputation: Recomputation) -> tuple[Any, PreTrainedTokenizerBase]:
    """The base model and its own tokenizer.

    Raises UserError if a local base was replaced since the job was checked, and SystemFault if RoPE was not scaled.
    """
    arguments = load_arguments(order, recomputation)
    arguments["dtype"] = getattr(torch, arguments["dtype"]) if arguments["dtype"] else None
    _check_base(order)
    rope = _scaled_rope(order)
    if rope is not None:
        arguments["rope_scaling"] = rope
    model, tokenizer = FastLanguageModel.from_pretrained(**arguments)
    _check_rope(model, order, rope)
    if order.base.is_local:
        own_memory(model, Path(order.base.source))
        _check_base(order)
    return model, getattr(tokenizer, "tokenizer", tokenizer)


def _scaled_rope(order: TrainingOrder) -> dict[str, Any] | None:
    """The RoPE parameters that the check decided on. None: those of the model's files."""
    if order.base.scaled_to is None:
        return None
    revision = None if order.base.is_local else order.base.revision
    config = AutoConfig.from_pretrained(order.base.source, revision=revision, trust_remote_code=False)
    return linear_rope(config, order.base.scaled_to)


def _check_rope(model: Any, order: TrainingOrder, requested: dict[str, Any] | None) -> None:
    """Raises SystemFault if the model was not built with the requested RoPE: its adapter could not be served."""
    if requested is None:
        return
    config = model.config.get_text_config()
    found = config.rope_parameters
    if any(found.get(name) != requested[name] for name in ("rope_type", "factor")):
        raise SystemFault("rope_not_scaled", f"RoPE should be {requested}, but Unsloth loaded {found}")
    config.max_position_embeddings = order.base.scaled_to


def _check_base(order: TrainingOrder) -> None:
    """Raises UserError if the base is not the one that was checked, so that no step is trained on other weights."""
    if not order.base.is_local or order.base.revision is None:
        return
    found = BaseFiles(order.cache_dir).revision(Path(order.base.source))
    if found != order.base.revision:
        now = "they cannot be read now" if found is None else f"they are {found} now"
        raise UserError(
            BASE_REPLACED,
            f"the files of {order.spec.model.model_name} were replaced: {order.base.revision} was checked, {now}",
            hint="post the job again to train on the new files, or put the old ones back under this name first",
            param="model.model_name",
        )


def attach_lora(model: Any, spec: JobSpec, recomputation: Recomputation) -> Any:
    """The model with LoRA added, or unchanged if all weights are trained. Raises UserError for unknown modules."""
    if spec.model.full_finetuning:
        return model
    if spec.lora.loftq_config is not None and not torch.cuda.is_available():
        raise UserError("needs_gpu", "LoftQ needs a GPU and this worker has none", param="lora.loftq_config")
    linear, others = linear_leaves(model)
    check_targets(spec.lora.named_targets, linear, others, spec.model.model_name)
    return FastLanguageModel.get_peft_model(model, **lora_arguments(spec, recomputation))


def linear_leaves(model: Any) -> tuple[set[str], set[str]]:
    """The last parts of the names of the linear modules, to which LoRA can be added, and of all others."""
    named = [(name.rsplit(".", 1)[-1], isinstance(module, torch.nn.Linear)) for name, module in model.named_modules()]
    linear = {leaf for leaf, is_linear in named if is_linear}
    return linear, {leaf for leaf, _ in named} - linear


def read_tokenizer(order: TrainingOrder, own: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The job's tokenizer, with which the rows were made. It pads on the right, with Unsloth's token if it has none."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(order.tokenizer), local_files_only=True, trust_remote_code=False
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = own.pad_token
    tokenizer.padding_side = "right"
    return tokenizer
