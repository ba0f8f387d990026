"""The model to train: Unsloth's loading and LoRA, by Unsloth's own calls.

Import this module before transformers: Unsloth patches it.
"""

from typing import Any

import unsloth  # noqa: F401  # isort: skip  # must come first
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from unsloth import FastLanguageModel, is_bfloat16_supported

from app.contracts.order import TrainingOrder
from app.contracts.spec import JobSpec
from worker.failures import UserError
from worker.targets import check_targets
from worker.training.arguments import Hardware, load_arguments, lora_arguments


def find_hardware() -> Hardware:
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return Hardware(device=device, supports_bf16=bool(is_bfloat16_supported()))


def load_base(order: TrainingOrder) -> tuple[Any, PreTrainedTokenizerBase]:
    """The base model and its tokenizer; the tokenizer pads on the right."""
    arguments = load_arguments(order)
    dtype = getattr(torch, arguments["dtype"]) if arguments["dtype"] else None
    model, tokenizer = FastLanguageModel.from_pretrained(**{**arguments, "dtype": dtype})
    return model, getattr(tokenizer, "tokenizer", tokenizer)


def attach_lora(model: Any, spec: JobSpec) -> Any:
    """The model with LoRA on it; unchanged where all weights are trained. Raises UserError for unknown modules."""
    if spec.model.full_finetuning:
        return model
    if spec.lora.loftq_config is not None and not torch.cuda.is_available():
        raise UserError("needs_gpu", "LoftQ quantises on a GPU and this worker has none", param="lora.loftq_config")
    linear, others = linear_leaves(model)
    check_targets(spec.lora.target_modules, linear, others, spec.model.model_name)
    return FastLanguageModel.get_peft_model(model, **lora_arguments(spec))


def linear_leaves(model: Any) -> tuple[set[str], set[str]]:
    """Last names of the modules that LoRA can sit on, and of all others."""
    named = [(name.rsplit(".", 1)[-1], isinstance(module, torch.nn.Linear)) for name, module in model.named_modules()]
    linear = {leaf for leaf, is_linear in named if is_linear}
    return linear, {leaf for leaf, _ in named} - linear


def read_tokenizer(order: TrainingOrder, own: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The job's tokenizer, by which the rows were made. Where it has no token to pad with, it takes Unsloth's."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(order.tokenizer), local_files_only=True, trust_remote_code=False
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = own.pad_token
    tokenizer.padding_side = "right"
    return tokenizer
