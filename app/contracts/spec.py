"""The training spec: the arguments of Unsloth's and TRL's own functions, grouped by function, each with bounds.

Sources of names and bounds: unsloth 2026.10.9 `FastLanguageModel.from_pretrained` / `get_peft_model`,
trl 1.15 `SFTConfig`, transformers 5.17 `TrainingArguments`, peft 0.21 `LoraConfig`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from app.contracts.base import Contract, Real, Whole, check_text
from app.contracts.continuing import ContinueFrom
from app.contracts.templates import CHAT_TEMPLATES

# The version of `JobSpec`. It is raised with every change that an older worker would not carry out. A worker claims no
# job of a newer version than its own.
SPEC_VERSION = 2
WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}

# A file or folder name of one segment: no separator, no leading dot, no special character of a shell or URL.
SafeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
# A hub id (`owner/name`) or a folder below the operator's models folder.
ModelName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}$", max_length=200)
]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=120)]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]+$", max_length=120)]
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ModelSpec(Contract):
    """Arguments of `FastLanguageModel.from_pretrained`, and the chat template put on its tokenizer."""

    model_name: ModelName
    revision: Revision | None = None
    max_seq_length: Whole = Field(
        2048, ge=16, le=1_048_576, description="tokens; if rows are longer than the model's context, RoPE is scaled"
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] | None = Field(
        None, description="null and auto: bfloat16 if the hardware supports it, else float16"
    )
    load_in_4bit: bool = True
    load_in_8bit: bool = False
    full_finetuning: bool = False
    chat_template: str | None = Field(
        None, max_length=64, description="an Unsloth template name; null: the model's own"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_choice_replaces_the_default(cls, value: Any) -> Any:
        """4 bits are the default, unless the request sets 8 bits or full fine-tuning."""
        if isinstance(value, dict) and "load_in_4bit" not in value:
            other = value.get("load_in_8bit") is True or value.get("full_finetuning") is True
            return {**value, "load_in_4bit": False} if other else value
        return value

    @field_validator("chat_template")
    @classmethod
    def _template_is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in CHAT_TEMPLATES:
            raise ValueError(f"should be null or one of {', '.join(CHAT_TEMPLATES)}")
        return name

    @model_validator(mode="after")
    def _one_way_of_loading(self) -> Self:
        chosen = [name for name in ("load_in_4bit", "load_in_8bit", "full_finetuning") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[0]} should be false beside {chosen[1]}: true")
        return self


class LoftqConfig(Contract):
    """peft's `LoftQConfig`: A and B are initialised from the error of quantising the base weights."""

    loftq_bits: Literal[2, 4, 8] = 4
    loftq_iter: Whole = Field(1, ge=1, le=20)


Rank = Annotated[Whole, Field(ge=1, le=512)]
Alpha = Annotated[Whole, Field(ge=1, le=8192)]
LayerNumber = Annotated[Whole, Field(ge=0, le=10_000)]


class LoraSpec(Contract):
    """Arguments of `FastLanguageModel.get_peft_model`."""

    r: Rank = Field(16, description="rank of the update; 8 to 128 is usual")
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] = list(ALL_PROJECTIONS)
    lora_alpha: Alpha = 16
    lora_dropout: Real = Field(0.0, ge=0.0, lt=1.0)
    bias: Literal["none", "all", "lora_only"] = "none"
    use_gradient_checkpointing: Literal["unsloth"] | bool = "unsloth"
    random_state: Seed = 3407
    use_rslora: bool = False
    use_dora: bool = Field(False, description="train a magnitude beside every update; slower, and served merged")
    layers_to_transform: Annotated[list[LayerNumber], Field(min_length=1, max_length=1024)] | None = Field(
        None, description="numbers of the layers that get an update, the first one is 0; null: all"
    )
    rank_pattern: dict[ModuleName, Rank] | None = Field(
        None, max_length=64, description="other ranks for some of target_modules, by name"
    )
    alpha_pattern: dict[ModuleName, Alpha] | None = Field(
        None, max_length=64, description="other values of lora_alpha for some of target_modules, by name"
    )
    loftq_config: LoftqConfig | None = None
    modules_to_save: Annotated[list[ModuleName], Field(min_length=1, max_length=8)] | None = None

    @property
    def largest_rank(self) -> int:
        return max([self.r, *(self.rank_pattern or {}).values()])

    @model_validator(mode="after")
    def _patterns_name_targets(self) -> Self:
        for field in ("rank_pattern", "alpha_pattern"):
            for name in getattr(self, field) or ():
                if name not in self.target_modules or name in ("embed_tokens", "lm_head"):  # those two have no rank
                    raise ValueError(
                        f"{field}.{name} should be left out: only linear modules of target_modules have one"
                    )
        return self


class FileSource(Contract):
    """A file uploaded by `POST /files`."""

    file: str = Field(pattern=r"^file-[a-z2-7]{24}$", description="the id that POST /files returned")


class HubSource(Contract):
    """A dataset of the hub: the arguments of `datasets.load_dataset(name, subset, split=…, revision=…)`."""

    hub: ModelName
    split: str = Field("train", pattern=r"^[A-Za-z0-9._\[\]:%+-]+$", max_length=100)
    subset: SafeName | None = None
    revision: Revision | None = None


class PathSource(Contract):
    """A file on the server, relative to the operator's datasets folder."""

    path: str = Field(min_length=1, max_length=500)


def _source_kind(value: Any) -> str | None:
    keys = set(value) if isinstance(value, dict) else {type(value).__name__.removesuffix("Source").lower()}
    named = [kind for kind in ("file", "hub", "path") if kind in keys]
    return named[0] if len(named) == 1 else None


Source = Annotated[
    Annotated[FileSource, Tag("file")] | Annotated[HubSource, Tag("hub")] | Annotated[PathSource, Tag("path")],
    Discriminator(
        _source_kind,
        custom_error_type="dataset_source",
        custom_error_message='should have exactly one of the keys "file", "hub" and "path"',
    ),
]

Format = Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text"]
Column = Literal[
    "messages", "conversations", "instruction", "input", "output", "prompt", "completion", "text", "system", "tools"
]


Marker = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class DatasetSpec(Contract):
    """Where the rows come from, and which of their tokens are trained on."""

    source: Source
    eval_source: Source | None = Field(None, description="rows to evaluate on; excludes eval_fraction")
    format: Format = "auto"
    columns: dict[Column, Annotated[str, StringConstraints(min_length=1, max_length=200)]] | None = Field(
        None, description='which column holds which part: {"prompt": "question", "completion": "answer"}'
    )
    dataset_text_field: str | None = Field(None, min_length=1, max_length=200, description="the column of raw text")
    dataset_num_proc: Whole | None = Field(None, ge=1, le=64, description="processes that prepare rows; null: one")
    eval_fraction: Real = Field(
        0.0, ge=0.0, le=0.5, description="share of the rows to evaluate on: at the end, and every training.eval_steps"
    )
    train_on: Literal["responses", "last_response", "all"] = Field(
        "responses", description="which tokens carry loss: every assistant message, the last one, or the whole row"
    )
    instruction_part: Marker | None = Field(
        None, description="argument of Unsloth's `train_on_responses_only`; null: found from the chat template"
    )
    response_part: Marker | None = Field(None, description="the text before an answer; required with instruction_part")
    on_bad_row: Literal["fail", "drop"] = "fail"
    max_dropped_fraction: Real = Field(
        0.5, ge=0.0, le=1.0, description="the largest share of the records that may be left out before the job fails"
    )
    on_long_row: Literal["cut", "drop", "fail"] = Field(
        "cut",
        description="for rows of more than max_seq_length tokens; cut: rows whose answers are cut off are left out",
    )

    @model_validator(mode="after")
    def _markers_come_together(self) -> Self:
        if (self.instruction_part is None) != (self.response_part is None):
            names = ("instruction_part", "response_part")
            absent, given = names if self.instruction_part is None else reversed(names)
            raise ValueError(f"{absent} should be a text beside {given}; or leave both out")
        if self.response_part is not None and self.train_on != "responses":
            raise ValueError('instruction_part should be left out where train_on is not "responses"')
        return self

    @model_validator(mode="after")
    def _one_evaluation_set(self) -> Self:
        if self.eval_source is not None and self.eval_fraction > 0:
            raise ValueError("eval_source should be left out beside eval_fraction")
        return self


Optimizer = Literal[
    "adamw_8bit", "adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd",
    "lion_8bit", "lion_32bit", "paged_lion_8bit",
]  # fmt: skip
Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "constant", "constant_with_warmup", "polynomial",
    "inverse_sqrt", "warmup_stable_decay",
]  # fmt: skip
# The fields of `ScheduleArgs` that each schedule takes; the other schedules take none.
TAKEN_BY_SCHEDULE = {
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": ("num_decay_steps", "decay_type", "min_lr_ratio", "num_cycles"),
}


class ScheduleArgs(Contract):
    """Arguments of the functions in `transformers.optimization` that make the schedules."""

    num_cycles: Real | None = Field(
        None, gt=0, le=1000, description="waves of a cosine, 0.5 by default; of cosine_with_restarts whole cycles, 1"
    )
    min_lr: Real | None = Field(None, ge=0, le=1, description="the lowest learning rate of cosine_with_min_lr")
    min_lr_rate: Real | None = Field(None, ge=0, le=1, description="the same as a share of the learning rate")
    lr_end: Real | None = Field(None, ge=0, le=1, description="the last learning rate of polynomial, 1e-7 by default")
    power: Real | None = Field(None, gt=0, le=100, description="of polynomial, 1 by default, which is linear")
    timescale: Whole | None = Field(None, ge=1, le=10_000_000, description="of inverse_sqrt; steps")
    num_decay_steps: Whole | None = Field(
        None, ge=1, le=10_000_000, description="the last steps of warmup_stable_decay, in which the learning rate falls"
    )
    decay_type: Literal["linear", "cosine", "1-sqrt"] | None = None
    min_lr_ratio: Real | None = Field(None, ge=0, le=1, description="of warmup_stable_decay, 0 by default")


class TrainingArgs(Contract):
    """Arguments of trl's `SFTConfig`, under its names."""

    method: Literal["sft", "cpt"] = Field(
        "sft", description="cpt: continued pretraining on raw text, loss on every token"
    )
    per_device_train_batch_size: Whole = Field(2, ge=1, le=1024)
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
    learning_rate: Real = Field(2e-4, gt=0, le=1)
    embedding_learning_rate: Real | None = Field(None, gt=0, le=1, description="for trained embed_tokens and lm_head")
    fp16: bool | None = None
    bf16: bool | None = None
    logging_steps: Whole = Field(
        1, ge=1, le=100_000, description="steps between points of the metrics; the last step is always a point"
    )
    optim: Optimizer = "adamw_8bit"
    adam_beta1: Real = Field(0.9, ge=0, lt=1, description="of the AdamW and Lion optimizers")
    adam_beta2: Real = Field(0.999, ge=0, lt=1, description="of the AdamW and Lion optimizers")
    adam_epsilon: Real = Field(1e-8, gt=0, le=1, description="of the AdamW optimizers")
    weight_decay: Real = Field(0.01, ge=0, le=10)
    max_grad_norm: Real = Field(1.0, ge=0, le=1000)
    lr_scheduler_type: Schedule = "linear"
    lr_scheduler_kwargs: ScheduleArgs | None = None
    neftune_noise_alpha: Real | None = Field(
        None, gt=0, le=100, description="strength of the noise that training adds to the embeddings of its rows"
    )
    seed: Seed = 3407
    packing: bool = False
    save_steps: Annotated[Whole, Field(ge=1, le=10_000_000)] | Literal["auto"] | None = Field(
        "auto",
        description="steps between checkpoints; auto: often enough to lose at most two minutes of work, in at "
        "most 3 % of the time; null: only on request. The last step always has one",
    )
    save_total_limit: Whole = Field(2, ge=1, le=1000, description="how many checkpoints are kept, the newest ones")
    eval_steps: Whole | None = Field(
        None, ge=1, le=10_000_000, description="optimizer steps between evaluations; null: only at the end"
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


class Resources(Contract):
    gpus: Whole = Field(1, ge=1, le=1, description="GPUs of one host; more than one is not supported")
    max_seconds: Whole | None = Field(None, ge=1, le=2_592_000, description="limit of the duration of one attempt")


class JobSpec(Contract):
    """The body of `POST /jobs`."""

    name: SafeName = "job"
    project: SafeName = Field("default", description="waiting jobs of different projects take turns")
    labels: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=64)],
            Annotated[str, StringConstraints(max_length=512)],
        ],
        Field(max_length=16),
    ] = {}
    priority: Whole = Field(0, ge=-100, le=100, description="higher runs first")
    model: ModelSpec
    lora: LoraSpec = LoraSpec()
    dataset: DatasetSpec
    continue_from: ContinueFrom | None = None
    training: TrainingArgs = TrainingArgs()
    resources: Resources = Resources()

    @model_validator(mode="before")
    @classmethod
    def _text_can_be_kept(cls, value: Any) -> Any:
        check_text(value)
        return value

    @property
    def dataset_in_force(self) -> DatasetSpec:
        """The dataset group that is in effect: continued pretraining trains on every token of every row."""
        if self.training.method != "cpt":
            return self.dataset
        return self.dataset.model_copy(update={"train_on": "all", "instruction_part": None, "response_part": None})

    @field_validator("name")
    @classmethod
    def _name_is_no_device(cls, name: str) -> str:
        if name.split(".")[0].lower() in WINDOWS_DEVICES:
            raise ValueError("should be another name than that of a Windows device")
        return name

    @model_validator(mode="after")
    def _loftq_quantises_by_itself(self) -> Self:
        is_quantised = self.model.load_in_4bit or self.model.load_in_8bit
        if self.lora.loftq_config is not None and is_quantised:
            raise ValueError(
                "lora.loftq_config should be null beside model.load_in_4bit or load_in_8bit: it needs 16-bit weights"
            )
        return self

    @model_validator(mode="after")
    def _markers_have_a_use(self) -> Self:
        if self.training.method == "cpt" and self.dataset.response_part is not None:
            raise ValueError(
                'dataset.response_part should be left out beside training.method "cpt", which learns every token'
            )
        return self

    @model_validator(mode="after")
    def _one_precision(self) -> Self:
        for dtype, other in (("float16", "bf16"), ("bfloat16", "fp16")):
            if self.model.dtype == dtype and getattr(self.training, other):
                raise ValueError(f"training.{other} should be left out beside model.dtype {dtype}")
        return self

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> Self:
        evaluated = self.dataset.eval_source is not None or self.dataset.eval_fraction > 0
        if self.training.eval_steps is not None and not evaluated:
            raise ValueError("training.eval_steps should be null without dataset.eval_fraction and dataset.eval_source")
        return self
