"""Verification of an adapter: the engine must reproduce the log-probabilities that the trainer recorded in a probe."""

from enum import StrEnum
from math import log
from typing import Annotated, Self

from pydantic import Field, model_validator

from app.contracts.base import Contract
from app.contracts.generation import AdapterRef
from app.contracts.order import BaseRef
from app.contracts.variant import BaseVariant

# The file of a bundle that holds its `Probe`.
PROBE = "probe.json"
# For each prompt: the greedy steps, the best tokens that are recorded of each step, and the most tokens of the prompt.
STEPS, CANDIDATES, PROMPT_TOKENS = 8, 5, 64
# By how much (natural logarithm for each trained token) the loss of a diverged model exceeds its base and guessing.
DIVERGED = 1.0

TokenId = Annotated[int, Field(ge=0)]


class ProbeStep(Contract):
    """One greedy step of the trained model: natural logarithms of a float32 softmax over the logits.

    `top` has the most likely (id, log-probability) pairs, best first; the first id is the chosen token. `base` has the
    log-probabilities of the same ids without the adapter; null if all weights were trained, as there is no base then.
    """

    top: Annotated[tuple[tuple[TokenId, float], ...], Field(min_length=1)]
    base: tuple[float, ...] | None

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        if self.base is not None and len(self.base) != len(self.top):
            raise ValueError("base should have one number for each of top")
        return self

    @property
    def id(self) -> int:
        return self.top[0][0]


class ProbePrompt(Contract):
    """The token ids of a prompt, and the steps after it. Each step sees the ids and all earlier steps.

    `question` is the text whose last ids these are, by the bundle's tokenizer and template; null for the beginning of a
    row, for a template that contains the date, and in probes of older versions.
    """

    question: str | None = None
    ids: Annotated[tuple[TokenId, ...], Field(min_length=1)]
    steps: Annotated[tuple[ProbeStep, ...], Field(min_length=1)]


class Fit(Contract):
    """The mean loss of the trained model on some tokens that it was trained on.

    `base` is the loss of the base without the adapter; null if all weights were trained.
    """

    trained: Annotated[float, Field(ge=0)]
    base: Annotated[float, Field(ge=0)] | None
    vocabulary: Annotated[int, Field(ge=1)]

    @property
    def guessing(self) -> float:
        """The loss of a model for which all tokens are equally likely."""
        return log(self.vocabulary)

    @property
    def is_worse_than_base(self) -> bool:
        """Whether training has made the loss worse than that of the base."""
        return self.base is not None and self.trained > self.base + DIVERGED

    @property
    def has_diverged(self) -> bool:
        """Whether training has made the loss worse than that of the base, and worse than guessing.

        An untrained base may be worse than guessing. If its loss is not known, twice that of guessing is used.
        """
        least = 2 * self.guessing if self.base is None else max(self.guessing, self.base)
        return self.trained > least + DIVERGED


class ProbeWeights(Contract):
    """The adapter in the trainer's memory, which its files must match.

    `sha256` is over names, types, shapes and bytes of all tensors; `scalings` has the scale of each layer by its path.
    """

    sha256: str
    scalings: dict[str, float]


class Probe(Contract):
    """What the trainer recorded of its model after the training: one prompt at a time, without padding and dropout.

    `quantised`: the base had 4 or 8 bits in the training, and may be served with 16 or 32. `variant`: how to compute
    the same values from a base that is not quantised in its files; null if that is not known.
    """

    dtype: str = Field(description="the least precise type of the trainer's computation, such as bfloat16")
    quantised: bool
    variant: BaseVariant | None = None
    noise: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="mean difference between two computations of the same model, step by step and all steps at once",
    )
    fit: Fit | None = Field(None, description="null in probes of older versions")
    weights: ProbeWeights | None = Field(None, description="null for a whole model, and in probes of older versions")
    prompts: Annotated[tuple[ProbePrompt, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _knows_the_base_or_not(self) -> Self:
        if len({step.base is None for prompt in self.prompts for step in prompt.steps}) != 1:
            raise ValueError("the base should be known at every step, or at none")
        return self

    @property
    def has_base(self) -> bool:
        return self.prompts[0].steps[0].base is not None


class ProofOrder(Contract):
    """An order to the engine to compare an adapter with the probe in its bundle."""

    base: BaseRef
    adapter: AdapterRef


class Unproved(StrEnum):
    """Why an adapter could not be verified."""

    TRAINING_DIVERGED = "training_diverged"
    BASE_DIFFERS = "base_differs"
    BUNDLE_DIFFERS = "bundle_differs"
    CHANGES_NOTHING = "changes_nothing"
    ADAPTER_DIFFERS = "adapter_differs"
    STRENGTH_DIFFERS = "strength_differs"
    NOT_FINITE = "not_finite"


class Proof(Contract):
    """The result of the verification. Values are absolute differences of log-probabilities; null: not compared.

    An adapter is verified (`proved`) if `difference` is at most `tolerance`, `base_gap` is at most `base_tolerance`,
    and it changes the base's output as strongly as in the trainer.
    """

    proved: bool
    cause: Unproved | None = Field(None, description="why not; null if `proved`, and in rows of older versions")
    reason: str | None = Field(None, description="why not, as a sentence; null if `proved`")
    difference: float | None = Field(
        None, description="mean between engine and trainer; for a quantised base, of the adapter's change only"
    )
    tolerance: float | None = None
    largest_difference: float | None = Field(
        None, description="the largest between engine and trainer of a recorded token"
    )
    base_gap: float | None = Field(None, description="mean between engine and trainer, without the adapter")
    base_tolerance: float | None = None
    base_difference: float | None = Field(None, description="the largest change by the adapter in the engine")
    strength: float | None = Field(
        None,
        description="of the adapter's change in the engine, 1 being as trained; null if it is too small to measure",
    )
    strength_limits: tuple[float, float] | None = Field(
        None, description="the smallest and the largest accepted strength"
    )
    tokens: int = Field(0, description="recorded tokens that were compared")
    base_variant: BaseVariant | None = Field(
        None, description="the form of the base in this verification; null: the base as it is in its files"
    )
