"""Stock TRL and PEFT, without Unsloth: a script as TRL's documentation writes it, with the page's arguments."""

import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from bench.training.contracts import RANK, RunOrder, RunResult
from bench.training.meter import StepMeter
from bench.training.script_run import ALPHA, SEED, TARGETS, page_arguments, read_rows, run


def train(order: RunOrder, meter: StepMeter) -> RunResult:
    called_at = time.time()
    model = load_base(order)
    tokenizer = AutoTokenizer.from_pretrained(order.workload.model)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0, target_modules=TARGETS, task_type="CAUSAL_LM")
    arguments = page_arguments(order) | {
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": order.rival.batching == "page",
        "use_liger_kernel": order.rival.has_liger,
    }
    make = trl_trainer if order.rival.has_fused_head else plain_trainer
    return run(make(model, tokenizer, lora, arguments, order), order, meter, called_at)


def load_base(order: RunOrder) -> Any:
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        order.workload.model,
        dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
        device_map={"": 0} if torch.cuda.is_available() else None,
        quantization_config=quantization if order.rival.bits == 4 else None,
    )


def trl_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, lora: LoraConfig, arguments: dict[str, Any], order: RunOrder
) -> Any:
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=read_rows(order),
        peft_config=lora,
        args=SFTConfig(**arguments, max_length=order.workload.max_tokens),
    )


def plain_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, lora: LoraConfig, arguments: dict[str, Any], order: RunOrder
) -> Any:
    """transformers' own Trainer, whose loss is that of the model: from all logits, or by Liger's fused head."""
    torch.manual_seed(SEED)
    if order.rival.bits == 4:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=arguments["gradient_checkpointing"])
    elif arguments["gradient_checkpointing"]:
        model.enable_input_require_grads()
    return Trainer(
        model=get_peft_model(model, lora),
        processing_class=tokenizer,
        train_dataset=read_rows(order),
        data_collator=DataCollatorForSeq2Seq(tokenizer=tokenizer),
        args=TrainingArguments(**arguments),
    )
