"""The arguments of a training that every method has, each with bounds.

Sources of names and bounds: trl 1.15 `SFTConfig`, transformers 5.17 `TrainingArguments`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from app.contracts.base import Real, Whole
from app.contracts.evaluation import EvaluationArgs
from app.contracts.schedules import TAKEN_BY_SCHEDULE, Schedule, ScheduleArgs
from app.contracts.trackers import TrackingArgs

# A file or folder name of one segment: no separator, no leading dot, no special character of a shell or URL.
SafeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]

Optimizer = Literal[
    "adamw_8bit", "adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd",
    "lion_8bit", "lion_32bit", "paged_lion_8bit",
]  # fmt: skip


class TrainingArgs(EvaluationArgs, TrackingArgs):
    """Arguments of transformers' `TrainingArguments` and `EarlyStoppingCallback`, and of trl's configs, under their
    names. Every method has them.
    """

    method: str
    per_device_train_batch_size: Whole = Field(
        2, ge=1, le=1024, description="an optimizer step has so many rows times gradient_accumulation_steps"
    )
    per_device_eval_batch_size: Whole = Field(2, ge=1, le=1024)
    gradient_accumulation_steps: Whole = Field(4, ge=1, le=4096)
    warmup_steps: Whole | None = Field(
        5, ge=0, le=1_000_000, description='optimizer steps while the learning rate rises; "constant" has none'
    )
    warmup_ratio: Real | None = Field(
        None, ge=0, lt=1, description="the same as a share of all optimizer steps; excludes warmup_steps"
    )
    max_steps: Whole | None = Field(None, ge=1, le=10_000_000, description="optimizer steps; excludes num_train_epochs")
    num_train_epochs: Real | None = Field(None, gt=0, le=1000, description="default: 1 without max_steps")
    learning_rate: Real = Field(2e-4, gt=0, le=1, description="the highest one, after the warm-up")
    embedding_learning_rate: Real | None = Field(None, gt=0, le=1, description="for trained embed_tokens and lm_head")
    fp16: bool | None = None
    bf16: bool | None = None
    logging_strategy: Literal["no", "steps", "epoch"] = Field(
        "steps", description="which steps are points of the metrics: every logging_steps, or the last of each epoch"
    )
    logging_steps: Whole = Field(
        1, ge=1, le=100_000, description="steps between points of the metrics; the last step is always a point"
    )
    logging_first_step: bool = False
    optim: Optimizer = "adamw_8bit"
    adam_beta1: Real = Field(0.9, ge=0, lt=1, description="of the AdamW and Lion optimizers")
    adam_beta2: Real = Field(0.999, ge=0, lt=1, description="of the AdamW and Lion optimizers")
    adam_epsilon: Real = Field(1e-8, gt=0, le=1, description="of the AdamW optimizers")
    weight_decay: Real = Field(0.01, ge=0, le=10)
    max_grad_norm: Real = Field(1.0, ge=0, le=1000)
    lr_scheduler_type: Schedule = "linear"
    lr_scheduler_kwargs: ScheduleArgs | None = None
    label_smoothing_factor: Real = Field(
        0.0, ge=0, lt=1, description="in evaluations too; all logits are computed, which takes memory"
    )
    neftune_noise_alpha: Real | None = Field(
        None, gt=0, le=100, description="strength of the noise that training adds to the embeddings of its rows"
    )
    seed: Seed = 3407
    layout: Literal["auto", "as_given"] = Field(
        "auto",
        description="how the rows of an optimizer step are computed, which changes nothing of what is learned; auto: "
        "in as few forward passes as fit, and with recomputation only where memory is short; as_given: in no more "
        "memory than per_device_train_batch_size rows take, with lora.use_gradient_checkpointing as it is",
    )
    packing: bool = False
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = Field(
        "random", description="the order of the rows; group_by_length: at random, rows of like length in one batch"
    )
    assistant_only_loss: bool | None = Field(
        None, description='true: dataset.train_on "responses", false: "all"; another dataset.train_on is refused'
    )
    torch_empty_cache_steps: Whole | None = Field(
        None, ge=1, le=10_000_000, description="steps after which unused GPU memory is given back; null: as Unsloth"
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] | None = Field(
        None,
        description="null: as save_steps says; epoch: after each; best: only of the best evaluation; no: on request",
    )
    save_steps: Annotated[Whole, Field(ge=1, le=10_000_000)] | Literal["auto"] | None = Field(
        "auto",
        description="steps between checkpoints; auto: often enough to lose at most two minutes of work, in at "
        "most 3 % of the time; null: only on request. The last step always has one",
    )
    save_total_limit: Whole = Field(
        2, ge=1, le=1000, description="how many checkpoints are kept: the newest ones, and beside them the best"
    )
    output_dir: SafeName = Field("outputs", description="a folder of the attempt; the adapter is stored elsewhere")

    @field_validator("max_steps", mode="before")
    @classmethod
    def _minus_one_is_trls_null(cls, value: Any) -> Any:
        return None if value == -1 and not isinstance(value, bool) else value

    @model_validator(mode="before")
    @classmethod
    def _a_ratio_replaces_the_default(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("warmup_ratio") is not None and "warmup_steps" not in value:
            return {**value, "warmup_steps": None}
        return value

    @model_validator(mode="before")
    @classmethod
    def _a_strategy_replaces_the_default(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("save_strategy") not in (None, "steps") and "save_steps" not in value:
            return {**value, "save_steps": None}
        return value

    @model_validator(mode="after")
    def _one_way_of_saving(self) -> Self:
        strategy, steps = self.save_strategy, self.save_steps
        if strategy == "steps" and not isinstance(steps, int):
            raise ValueError('save_steps should be a number of steps beside save_strategy "steps"')
        if strategy not in (None, "steps") and steps is not None:
            raise ValueError(f'save_steps should be null beside save_strategy "{strategy}"')
        if strategy == "best" and self.best_metric is None:
            raise ValueError('save_strategy should be null, "no", "steps" or "epoch" without metric_for_best_model')
        return self

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("warmup_steps should be left out beside warmup_ratio")
        if self.warmup_steps is None and self.warmup_ratio is None:
            raise ValueError("warmup_steps should be a number of steps without warmup_ratio; 0: no warm-up")
        return self

    @model_validator(mode="after")
    def _the_schedule_takes_its_arguments(self) -> Self:
        kind, sent = self.lr_scheduler_type, self.lr_scheduler_kwargs or ScheduleArgs()
        given = sent.model_dump(exclude_none=True)
        taken = TAKEN_BY_SCHEDULE.get(kind, ())
        for name in given.keys() - set(taken):
            may = f"may have {', '.join(taken)}" if taken else "takes none"
            raise ValueError(f'lr_scheduler_kwargs.{name} should be left out: lr_scheduler_type "{kind}" {may}')
        if kind == "cosine_with_restarts" and sent.num_cycles is not None and sent.num_cycles % 1:
            raise ValueError('lr_scheduler_kwargs.num_cycles should be whole beside "cosine_with_restarts"')
        if kind == "cosine_with_min_lr" and (sent.min_lr is None) == (sent.min_lr_rate is None):
            raise ValueError('lr_scheduler_kwargs should have min_lr or min_lr_rate beside "cosine_with_min_lr"')
        if kind == "warmup_stable_decay" and sent.num_decay_steps is None:
            raise ValueError('lr_scheduler_kwargs should have num_decay_steps beside "warmup_stable_decay"')
        for name in ("min_lr", "lr_end"):
            if given.get(name, 0) >= self.learning_rate:
                raise ValueError(f"lr_scheduler_kwargs.{name} should be less than learning_rate")
        return self

    @model_validator(mode="after")
    def _exclusive_fields(self) -> Self:
        if self.max_steps is not None and self.num_train_epochs is not None:
            raise ValueError("max_steps should be null beside num_train_epochs")
        if self.fp16 and self.bf16:
            raise ValueError("fp16 should be false beside bf16: true; without both the worker picks by its hardware")
        return self
