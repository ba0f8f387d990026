"""What proves an adapter: log-probabilities that its trainer saw, and that the engine must see again."""

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
# Of each prompt: greedy steps, the best tokens that are kept of each, and the most tokens that stand before them.
STEPS, CANDIDATES, PROMPT_TOKENS = 8, 5, 64
# By how many natural logarithms a trained token a diverged model is worse than its base and than guessing.
DIVERGED = 1.0

TokenId = Annotated[int, Field(ge=0)]


class ProbeStep(Contract):
    """One greedy step of the trained model: natural logarithms of a softmax in float32 over the raw scores.

    `top` has the most likely (id, log-probability) pairs, best first: the first id is the step's own. `base` has the
    log-probabilities of the same ids without the adapter; null where all weights were trained and no base is left.
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
    """Token ids that stand first, and the steps behind them: each sees the ids and all steps before it.

    `question` is the text whose last ids these are, by the bundle's own tokenizer and template; null for the beginning
    of a row, for a template that names the day, and in probes of older versions.
    """

    question: str | None = None
    ids: Annotated[tuple[TokenId, ...], Field(min_length=1)]
    steps: Annotated[tuple[ProbeStep, ...], Field(min_length=1)]


class Fit(Contract):
    """How well a model gives the rows that it was trained on: the mean loss of some of their trained tokens.

    `base` is the loss of the base without the adapter; null where all weights were trained and no base is left.
    """

    trained: Annotated[float, Field(ge=0)]
    base: Annotated[float, Field(ge=0)] | None
    vocabulary: Annotated[int, Field(ge=1)]

    @property
    def guessing(self) -> float:
        """The loss of a model that finds all tokens equally likely."""
        return log(self.vocabulary)

    @property
    def is_worse_than_base(self) -> bool:
        """Whether training has unlearned what it was to teach, be it in a state in which the model still answers."""
        return self.base is not None and self.trained > self.base + DIVERGED

    @property
    def has_diverged(self) -> bool:
        """Whether training has made the model worse than its base and worse than guessing, at what it was taught.

        An untrained base may be worse than guessing by itself; where it is not known, twice the loss is asked for.
        """
        least = 2 * self.guessing if self.base is None else max(self.guessing, self.base)
        return self.trained > least + DIVERGED


class ProbeWeights(Contract):
    """An adapter as it was in the trainer's memory: what its files have to be, and how strongly each layer counts.

    `sha256` is over names, types, shapes and bytes of all tensors; `scalings` are by the path of the layer.
    """

    sha256: str
    scalings: dict[str, float]


class Probe(Contract):
    """What a trainer saw of its model when the training was over: one prompt at a time, no padding, no dropout.

    `quantised`: the base was held in 4 or 8 bits while it was trained on, and may be served in 16 or 32. `variant`:
    how to make the same values of a base that is not quantised in its files; null where nobody knows.
    """

    dtype: str = Field(description="the coarsest that the trainer computed in, such as bfloat16")
    quantised: bool
    variant: BaseVariant | None = None
    noise: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="mean difference between two readings of the very same model, one step at a time and all at once",
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
    """Ask the engine to hold an adapter against the probe in its bundle."""

    base: BaseRef
    adapter: AdapterRef


class Unproved(StrEnum):
    """Why an adapter is not proved."""

    TRAINING_DIVERGED = "training_diverged"
    BASE_DIFFERS = "base_differs"
    BUNDLE_DIFFERS = "bundle_differs"
    CHANGES_NOTHING = "changes_nothing"
    ADAPTER_DIFFERS = "adapter_differs"
    STRENGTH_DIFFERS = "strength_differs"
    NOT_FINITE = "not_finite"


class Proof(Contract):
    """What came of it. All figures are absolute differences of log-probabilities; null where nothing was compared.

    An adapter is proved when `difference` is at most `tolerance` and `base_gap` at most `base_tolerance`, and when it
    changes what the base says if its trainer saw it do so, as strongly as it did there.
    """

    proved: bool
    cause: Unproved | None = Field(None, description="why not; null for a proved one, and in rows of older versions")
    reason: str | None = Field(None, description="why not, in words; null for a proved one")
    difference: float | None = Field(
        None, description="mean, between engine and trainer; of a quantised probe, of what the adapter changes"
    )
    tolerance: float | None = None
    largest_difference: float | None = Field(None, description="between engine and trainer, of any recorded token")
    base_gap: float | None = Field(None, description="mean, between engine and trainer, without the adapter")
    base_tolerance: float | None = None
    base_difference: float | None = Field(None, description="largest, in the engine, that the adapter makes")
    strength: float | None = Field(
        None,
        description="of the adapter's change in the engine, 1 being as trained; null where it is too small to tell",
    )
    strength_limits: tuple[float, float] | None = Field(
        None, description="the least and the most that are within reason"
    )
    tokens: int = Field(0, description="recorded tokens that were compared")
    base_variant: BaseVariant | None = Field(
        None, description="the form of the base that all of this holds for; null: the base as its files hold it"
    )
