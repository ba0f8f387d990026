"""The page's script: Unsloth with the page's own calls and arguments, on rows of token ids."""

from unsloth import FastLanguageModel, is_bfloat16_supported  # isort: skip

import time

from transformers import AutoTokenizer, DataCollatorForSeq2Seq, TrainingArguments
from trl import SFTTrainer

from bench.training.contracts import RANK, RunOrder, RunResult
from bench.training.meter import StepMeter
from bench.training.script_run import ALPHA, SEED, TARGETS, page_arguments, read_rows, run


def train(order: RunOrder, meter: StepMeter) -> RunResult:
    called_at = time.time()
    checkpointing = "unsloth" if order.rival.batching == "page" else False
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(order.workload.model),
        max_seq_length=order.workload.max_tokens,
        dtype=None,
        load_in_4bit=order.rival.bits == 4,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        target_modules=TARGETS,
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing=checkpointing,
        random_state=SEED,
        use_rslora=False,
        loftq_config=None,
    )
    tokenizer = AutoTokenizer.from_pretrained(order.workload.model)
    arguments = page_arguments(order) | ({} if checkpointing else {"gradient_checkpointing": False})
    trainer = SFTTrainer(
        model=model,
        tokenizer=tokenizer,
        train_dataset=read_rows(order),
        dataset_text_field="text",
        max_seq_length=order.workload.max_tokens,
        data_collator=DataCollatorForSeq2Seq(tokenizer=tokenizer),
        dataset_num_proc=2,
        packing=False,
        args=TrainingArguments(**arguments, fp16=not is_bfloat16_supported(), bf16=is_bfloat16_supported()),
    )
    return run(trainer, order, meter, called_at)
