"""The training spec: the arguments of Unsloth's and TRL's own functions, grouped by function, each with bounds.

Sources of names and bounds: unsloth 2026.10.9 `FastLanguageModel.from_pretrained` / `get_peft_model`, and peft 0.21
`LoraConfig`. The arguments of a training are in `app.contracts.training_args` and `app.contracts.methods`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from app.contracts.base import Contract, Real, Whole
from app.contracts.continuing import ContinueFrom
from app.contracts.methods import METHODS, AnyTrainingArgs, TrainingMethod
from app.contracts.methods.sft import SftArgs
from app.contracts.secret_reference import SecretReference
from app.contracts.submitted import SubmittedSpec
from app.contracts.templates import CHAT_TEMPLATES
from app.contracts.training_args import SafeName, Seed

# The version of `JobSpec`. It is raised with every change that an older worker would not carry out. A worker claims no
# job of a newer version than its own.
SPEC_VERSION = 5

# A hub id (`owner/name`) or a folder below the operator's models folder.
ModelName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}$", max_length=200)
]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=120)]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]+$", max_length=120)]

TOKEN = "a secret with a token of the hub, such as secret://hf; in its place the operator's is used"
# What a spec may put into the environment of its training: the keys of trackers.
Variable = Literal["WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"]

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ModelSpec(Contract):
    """Arguments of `FastLanguageModel.from_pretrained`, and the chat template put on its tokenizer."""

    model_name: ModelName = Field(description="a folder of the service's models folder, or a hub id such as org/name")
    revision: Revision | None = None
    token: SecretReference | None = Field(None, description=TOKEN)
    max_seq_length: Whole = Field(
        2048, ge=16, le=1_048_576, description="tokens; if rows are longer than the model's context, RoPE is scaled"
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] | None = Field(
        None, description="null and auto: bfloat16 if the hardware supports it, else float16"
    )
    load_in: Literal["auto"] | None = Field(
        None, description="auto: 16 bits if the training then fits into the memory, else 4; excludes the next three"
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
        """4 bits are the default, unless the request sets 8 bits, full fine-tuning, or a choice by the memory."""
        if isinstance(value, dict) and "load_in_4bit" not in value:
            other = value.get("load_in_8bit") is True or value.get("full_finetuning") is True
            other = other or value.get("load_in") == "auto"
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
        if chosen and self.load_in is not None:
            raise ValueError(f'{chosen[0]} should be left out beside load_in "{self.load_in}"')
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
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | Literal["all-linear"] = Field(
        list(ALL_PROJECTIONS), description='"all-linear": all linear modules of the model but its output head'
    )
    lora_alpha: Alpha = Field(16, description="factor of the update, divided by r; with use_rslora by the root of r")
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
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "loftq"] = Field(
        True,
        description="true, gaussian, orthogonal: the update begins as zero; false: at random",
    )
    loftq_config: LoftqConfig | None = None
    modules_to_save: Annotated[list[ModuleName], Field(min_length=1, max_length=8)] | None = None

    @property
    def largest_rank(self) -> int:
        return max([self.r, *(self.rank_pattern or {}).values()])

    @property
    def named_targets(self) -> list[str]:
        """The modules in `target_modules`. None with "all-linear", which the check replaces by names."""
        return [] if isinstance(self.target_modules, str) else self.target_modules

    @model_validator(mode="after")
    def _patterns_name_targets(self) -> Self:
        for field in ("rank_pattern", "alpha_pattern"):
            for name in getattr(self, field) or ():
                is_target = name in self.target_modules or self.target_modules == "all-linear"
                if not is_target or name in ("embed_tokens", "lm_head"):  # those two have no rank
                    raise ValueError(
                        f"{field}.{name} should be left out: only linear modules of target_modules have one"
                    )
        return self

    @model_validator(mode="after")
    def _initial_weights_are_possible(self) -> Self:
        kind = self.init_lora_weights
        if kind == "loftq" and self.loftq_config is None:
            raise ValueError('init_lora_weights should be true without loftq_config, or have it beside "loftq"')
        if self.loftq_config is not None and kind not in (True, "loftq"):
            raise ValueError("loftq_config should be null beside another init_lora_weights")
        ranks = {"r": self.r, **{f"rank_pattern.{name}": rank for name, rank in (self.rank_pattern or {}).items()}}
        for field, rank in ranks.items():
            if kind == "orthogonal" and rank % 2:
                raise ValueError(f'{field} should be even beside init_lora_weights "orthogonal"')
        return self


class FileSource(Contract):
    """A file uploaded by `POST /files`."""

    file: str = Field(pattern=r"^file-[a-z2-7]{24}$", description="the id that POST /files returned")


class HubSource(Contract):
    """A dataset of the hub: the arguments of `datasets.load_dataset(name, subset, split=…, revision=…)`."""

    hub: ModelName = Field(description="its id, such as org/name")
    split: str = Field("train", pattern=r"^[A-Za-z0-9._\[\]:%+-]+$", max_length=100)
    subset: SafeName | None = None
    revision: Revision | None = None
    token: SecretReference | None = Field(None, description=TOKEN)


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


class Resources(Contract):
    gpus: Whole = Field(1, ge=1, le=8, description="GPUs of one host, which compute each optimizer step together")
    max_seconds: Whole | None = Field(None, ge=1, le=2_592_000, description="limit of the duration of one attempt")


class JobSpec(SubmittedSpec):
    """The body of `POST /jobs`: one training."""

    model: ModelSpec
    lora: LoraSpec = LoraSpec()
    dataset: DatasetSpec
    continue_from: ContinueFrom | None = None
    training: AnyTrainingArgs = SftArgs()
    resources: Resources = Resources()
    environment: dict[Variable, SecretReference] | None = Field(
        None, description='secrets for the environment of the training, such as {"WANDB_API_KEY": "secret://wandb"}'
    )

    @property
    def method(self) -> TrainingMethod:
        return METHODS[self.training.method]

    @property
    def dataset_in_force(self) -> DatasetSpec:
        """The dataset group with what the method decides."""
        return self.dataset.model_copy(update=dict(self.method.forced))

    @model_validator(mode="after")
    def _some_initial_weights_need_a_base_in_16_bits(self) -> Self:
        model = self.model
        if not (model.load_in_4bit or model.load_in_8bit or model.load_in is not None):
            return self
        beside = "model.load_in_4bit or load_in_8bit" if model.load_in is None else f'model.load_in "{model.load_in}"'
        if self.lora.loftq_config is not None:
            raise ValueError(f"lora.loftq_config should be null beside {beside}: it needs 16-bit weights")
        if self.lora.init_lora_weights == "orthogonal":
            raise ValueError(f"lora.init_lora_weights should be true beside {beside}")
        return self

    @model_validator(mode="after")
    def _one_hub_token(self) -> Self:
        """The processes that download have one token, because the libraries know one."""
        dataset, first = self.dataset, self.model.token
        for name, source in (("source", dataset.source), ("eval_source", dataset.eval_source)):
            token = source.token if isinstance(source, HubSource) else None
            if token is not None and first is not None and token != first:
                raise ValueError(f"dataset.{name}.token should be {first}: a job has one token of the hub")
            first = first or token
        return self

    @model_validator(mode="after")
    def _a_checkpoint_has_a_precision(self) -> Self:
        if self.model.load_in is not None and self.continue_from is not None and self.continue_from.job is not None:
            raise ValueError("model.load_in should be left out beside continue_from.job: load as that job did")
        return self

    @model_validator(mode="after")
    def _dataset_fits_the_method(self) -> Self:
        for name, refusal in self.method.refused.items():
            if getattr(self.dataset, name) != DatasetSpec.model_fields[name].default:
                raise ValueError(f"dataset.{name} should be left out beside training.method {refusal}")
        return self

    @model_validator(mode="after")
    def _one_precision(self) -> Self:
        for dtype, other in (("float16", "bf16"), ("bfloat16", "fp16")):
            if self.model.dtype == dtype and getattr(self.training, other):
                raise ValueError(f"training.{other} should be left out beside model.dtype {dtype}")
        return self

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> Self:
        training = self.training
        if self.dataset.eval_source is not None or self.dataset.eval_fraction > 0:
            return self
        asked = {"eval_steps": training.eval_steps, "eval_on_start": training.eval_on_start}
        asked["eval_strategy"] = training.eval_strategy_in_force != "no"
        for name in (name for name, value in asked.items() if value):
            none = "false" if name == "eval_on_start" else "null"
            raise ValueError(f"training.{name} should be {none} without dataset.eval_fraction and dataset.eval_source")
        return self

    @model_validator(mode="after")
    def _every_gpu_has_rows(self) -> Self:
        training, gpus = self.training, self.resources.gpus
        rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
        if gpus > rows:
            raise ValueError(f"resources.gpus should be at most {rows}, the rows of an optimizer step")
        if gpus > 1 and training.neftune_noise_alpha is not None:
            raise ValueError("training.neftune_noise_alpha should be null beside more than one of resources.gpus")
        return self

    @model_validator(mode="after")
    def _one_choice_of_tokens(self) -> Self:
        sent, train_on = self.training.assistant_only_loss, self.dataset_in_force.train_on
        if sent is not None and train_on != ("responses" if sent else "all"):
            is_forced = "train_on" in self.method.forced
            where = f'training.method "{self.method.name}"' if is_forced else f'dataset.train_on "{train_on}"'
            raise ValueError(f"training.assistant_only_loss should be null beside {where}")
        return self
