"""Chooses how the steps of a training are computed: tokens of a micro-batch, recomputation, and the base's precision.

Of the layouts that fit into the memory it takes the one with the least predicted time. A layout that the spec decides
(`as_given`) is only held against the memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from app.contracts.memory_model import Bits, MicroBatchSize, PeakMemory, Recomputation, bits_of, predict
from app.contracts.model_shape import BaseShape
from app.contracts.spec import JobSpec
from app.contracts.step_time import step_seconds
from app.contracts.step_tokens import StepTokens
from app.contracts.token_buckets import bucket, buckets

# The share of a predicted peak that has to be free in addition: for what fragments, and for the error of the model.
MARGIN = 1.08
# The CUDA context and loaded kernels, which torch's allocator does not hold.
CONTEXT_BYTES = 2**30
# How much of the card a correction may claim: what was measured beyond that has another reason than the model's error.
SMALLEST_CORRECTION, LARGEST_CORRECTION = 0.7, 1.5
GIB = 2**30


@dataclass(frozen=True)
class TrainingDevice:
    """What a training may use: `free_bytes` for torch's allocator in all, and operations a second (None: not known)."""

    free_bytes: int
    rate: float | None = None


@dataclass(frozen=True)
class ChosenLayout:
    """How the steps are computed. `fits` is False if no layout fits; the fields then describe the smallest one.

    `bits`: of a weight of the base. `seconds`: of a mean step; None: the rate of the device is not known.
    `needed_bytes`: the predicted peak with its margin. `reason`: in words.
    """

    fits: bool
    micro_batch_tokens: int
    recomputation: Recomputation
    bits: Bits
    memory: PeakMemory
    predicted_bytes: int
    needed_bytes: int
    seconds: float | None
    reason: str


@dataclass(frozen=True)
class TrainingCase:
    """One training of one base, with its rows. `correction`: measured share of what the model predicts."""

    spec: JobSpec
    shape: BaseShape
    rows: StepTokens
    correction: float = 1.0

    def peak(self, micro_batch: MicroBatchSize, bits: Bits) -> int:
        """The predicted peak, of steps and of evaluations."""
        each = [micro_batch, *self._evaluations()]
        return max(predict(self.spec, self.shape, one, bits).peak(self.correction) for one in each)

    def _evaluations(self) -> Iterable[MicroBatchSize]:
        """An evaluation keeps no activations: it takes at most as much as a layer that is computed again."""
        dataset = self.spec.dataset
        if dataset.eval_source is not None or dataset.eval_fraction > 0:
            yield MicroBatchSize(self.spec.training.per_device_eval_batch_size * self.rows.longest, "unsloth")

    def needed(self, micro_batch: MicroBatchSize, bits: Bits) -> int:
        return int(self.peak(micro_batch, bits) * MARGIN)

    def seconds(self, micro_batch: MicroBatchSize, rate: float | None) -> float | None:
        return None if rate is None else step_seconds(self.spec, self.shape, self.rows, micro_batch, rate)


def choose(case: TrainingCase, device: TrainingDevice) -> ChosenLayout:
    """Choose the layout of a training on a device. The result is the same for the same arguments.

    With `load_in: "auto"` the base has 16 bits if any layout then fits, else 4.
    """
    found: ChosenLayout | None = None
    for bits in _precisions(case):
        found = (
            _as_given(case, device, bits) if case.spec.training.layout == "as_given" else _fastest(case, device, bits)
        )
        if found.fits:
            break
    assert found is not None, "there is at least one precision"
    return found if found.fits else replace(found, reason=f"{found.reason}; {_what_would_fit(case, device, found)}")


def pinned_values(spec: JobSpec, choice: ChosenLayout) -> dict[str, Any]:
    """Return what a choice decides of the plan, by dotted field: every later attempt loads the base in the same way."""
    if spec.model.load_in != "auto":
        return {}
    return {"model.load_in": None, "model.load_in_4bit": choice.bits == 4}


def usual_bytes(case: TrainingCase) -> int:
    """Return what a training takes, with its margin. `auto` is held to recompute whole steps."""
    recomputed = MicroBatchSize(bucket(case.rows.largest), "unsloth")
    micro_batch = given_micro_batch(case.spec, case.rows) if case.spec.training.layout == "as_given" else recomputed
    return case.needed(micro_batch, bits_of(case.spec)) + CONTEXT_BYTES


def whole_step_bytes(case: TrainingCase) -> int:
    """Return what a training takes, with its margin, if every step is computed at once and keeps all activations."""
    return case.needed(MicroBatchSize(bucket(case.rows.largest), False), bits_of(case.spec)) + CONTEXT_BYTES


def bounded(correction: float) -> float:
    return min(max(correction, SMALLEST_CORRECTION), LARGEST_CORRECTION)


def given_micro_batch(spec: JobSpec, rows: StepTokens) -> MicroBatchSize:
    """The largest micro-batch of the spec's own layout: whole rows, each padded to the longest one."""
    tokens = spec.training.per_device_train_batch_size * rows.longest
    return MicroBatchSize(bucket(tokens), spec.lora.use_gradient_checkpointing)


def _precisions(case: TrainingCase) -> Iterable[Bits]:
    if case.spec.model.load_in != "auto":
        return (bits_of(case.spec),)
    return (4,) if case.shape.is_quantised else (16, 4)


def _as_given(case: TrainingCase, device: TrainingDevice, bits: Bits) -> ChosenLayout:
    micro_batch = given_micro_batch(case.spec, case.rows)
    return _choice(case, device, micro_batch, bits, "as the spec says")


def _fastest(case: TrainingCase, device: TrainingDevice, bits: Bits) -> ChosenLayout:
    """The layout with the least predicted time. Without recomputation if two take the same time."""
    fitting = [found for kept in (False, "unsloth") if (found := _largest(case, device, bits, kept)) is not None]
    if not fitting:
        return _choice(case, device, MicroBatchSize(bucket(case.rows.longest), "unsloth"), bits, "the smallest layout")
    # Without a rate of the card the layouts are still compared, by that of any card.
    best = min(fitting, key=lambda found: case.seconds(found, device.rate or 1e12) or 0.0)
    is_whole = best.tokens >= case.rows.largest
    kept = "activations are recomputed" if best.recomputation else "all activations are kept"
    whole = "every step is one micro-batch" if is_whole else "the largest micro-batch that fits"
    return _choice(case, device, best, bits, f"{kept}, {whole}")


def _largest(
    case: TrainingCase, device: TrainingDevice, bits: Bits, recomputation: Recomputation
) -> MicroBatchSize | None:
    """The most tokens that fit: at most a whole step, at least the longest row. None: not even that row fits."""
    sizes = [MicroBatchSize(tokens, recomputation) for tokens in buckets(case.rows.longest, case.rows.largest)]
    return next((size for size in reversed(sizes) if case.needed(size, bits) <= device.free_bytes), None)


def _choice(
    case: TrainingCase, device: TrainingDevice, micro_batch: MicroBatchSize, bits: Bits, reason: str
) -> ChosenLayout:
    peak, needed = case.peak(micro_batch, bits), case.needed(micro_batch, bits)
    fits = needed <= device.free_bytes
    sizes = f"{micro_batch.tokens:,} tokens take {needed / GIB:.1f} GiB of {device.free_bytes / GIB:.1f} GiB"
    return ChosenLayout(
        fits=fits,
        micro_batch_tokens=micro_batch.tokens,
        recomputation=micro_batch.recomputation,
        bits=bits,
        memory=predict(case.spec, case.shape, micro_batch, bits),
        predicted_bytes=peak,
        needed_bytes=needed,
        seconds=case.seconds(micro_batch, device.rate),
        reason=f"{reason}: {sizes} with {bits} bits a weight",
    )


def _what_would_fit(case: TrainingCase, device: TrainingDevice, found: ChosenLayout) -> str:
    """Name the smallest changes of the spec with which it would fit, each by itself."""
    row = MicroBatchSize(bucket(case.rows.longest), "unsloth")
    ways: list[str] = []
    if predict(case.spec, case.shape, row, found.bits).peak(case.correction) < case.peak(row, found.bits):
        ways.append("a smaller per_device_eval_batch_size takes less")
    if case.needed(row, found.bits) <= device.free_bytes:
        ways.append('per_device_train_batch_size 1 with use_gradient_checkpointing "unsloth" would fit')
    else:
        longest = _longest_row(case, device, found.bits)
        ways += [f"max_seq_length {longest} would fit"] if longest else []
    can_quantise = found.bits == 16 and not (case.shape.is_quantised or case.spec.model.full_finetuning)
    if can_quantise and case.needed(row, 4) <= device.free_bytes:
        ways.append("load_in_4bit would fit")
    return ", or ".join(ways) or "no shorter row and no other precision would fit: take a smaller base or a larger card"


def _longest_row(case: TrainingCase, device: TrainingDevice, bits: Bits) -> int:
    """The most tokens of a row that fit with recomputation, or 0."""
    shorter = replace(case, rows=replace(case.rows, longest=1, largest=case.rows.longest))
    found = _largest(shorter, device, bits, "unsloth")
    return found.tokens if found is not None else 0
