"""The smallest spec that is whole, and the page's own arguments in full."""

from typing import Any

from app.contracts.spec import JobSpec

FILE = "file-" + "a" * 24


def a_body(**groups: Any) -> dict[str, Any]:
    """A POST /jobs body; groups are merged over the smallest one."""
    body: dict[str, Any] = {"model": {"model_name": "org/model"}, "dataset": {"source": {"file": FILE}}}
    return {**body, **{name: {**body.get(name, {}), **group} for name, group in groups.items()}}


def a_spec(**groups: Any) -> JobSpec:
    return JobSpec.model_validate(a_body(**groups))


# Unsloth's page, argument for argument (`fp16`/`bf16` left to the worker, as the page leaves them to the hardware).
PAGE: dict[str, Any] = {
    "model": {
        "model_name": "unsloth/Llama-3.2-3B-Instruct-bnb-4bit",
        "max_seq_length": 2048,
        "dtype": None,
        "load_in_4bit": True,
        "chat_template": "llama-3.1",
    },
    "lora": {
        "r": 16,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "lora_alpha": 16,
        "lora_dropout": 0,
        "bias": "none",
        "use_gradient_checkpointing": "unsloth",
        "random_state": 3407,
        "use_rslora": False,
        "loftq_config": None,
    },
    "dataset": {
        "source": {"hub": "mlabonne/FineTome-100k", "split": "train"},
        "dataset_text_field": "text",
        "dataset_num_proc": 2,
    },
    "training": {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "warmup_steps": 5,
        "max_steps": 60,
        "learning_rate": 2e-4,
        "fp16": False,
        "bf16": True,
        "logging_steps": 1,
        "optim": "adamw_8bit",
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        "seed": 3407,
        "packing": False,
        "output_dir": "outputs",
    },
}
