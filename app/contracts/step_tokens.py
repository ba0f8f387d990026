"""How many tokens the optimizer steps of a training have: counted from its rows, or estimated from their spread."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from app.contracts.spec import JobSpec
from app.contracts.tokens import Spread

# A step of random rows is larger than its mean by more than so many standard deviations in one of 30,000 cases.
DEVIATIONS = 4
# The mean of a bucket of the distribution, relative to its end: its rows have between half as many tokens and as many.
MIDDLE = 0.75


@dataclass(frozen=True)
class StepTokens:
    """The tokens of the rows of optimizer steps, without padding.

    `longest`: of a row. `largest`: of a step. `mean`: of a step. `mean_context`: of the row of a token, on average;
    that is, the mean square of the rows over their mean.
    """

    longest: int
    largest: int
    mean: float
    mean_context: float

    @classmethod
    def of_steps(cls, steps: Iterable[Sequence[int]]) -> Self:
        """Count the steps of a training. Each is the tokens of its rows, and there is at least one row."""
        rows = [list(step) for step in steps]
        totals = [sum(step) for step in rows]
        squares = sum(row * row for step in rows for row in step)
        longest = max(row for step in rows for row in step)
        return cls(longest, max(totals), sum(totals) / len(rows), squares / sum(totals))

    def shared(self, ranks: int) -> Self:
        """Estimate the share of one of several ranks. No two of them differ by more than a row."""
        largest = min(self.largest, math.ceil(self.largest / ranks + self.longest * (1 - 1 / ranks)))
        return replace(self, largest=max(self.longest, largest), mean=self.mean / ranks)

    @classmethod
    def of_spread(cls, spread: Spread, spec: JobSpec) -> Self:
        """Estimate the steps from the spread of all rows. `largest` is not likely to be exceeded."""
        training = spec.training
        count = training.per_device_train_batch_size * training.gradient_accumulation_steps
        rows = sum(bucket.rows for bucket in spread.histogram)
        count = max(1, min(count, rows))  # a smaller dataset is one step
        squares = sum(bucket.rows * (MIDDLE * bucket.up_to) ** 2 for bucket in spread.histogram) / max(rows, 1)
        context = min(max(squares / spread.mean, spread.mean), float(spread.largest))
        if training.packing:
            packed = max(spec.model.max_seq_length, spread.largest)
            return cls(packed, count * packed, float(count * packed), context)
        deviation = math.sqrt(max(0.0, spread.mean * (context - spread.mean)))
        largest = count * spread.largest
        if training.train_sampling_strategy == "random":
            likely = count * spread.mean + DEVIATIONS * deviation * math.sqrt(count)
            largest = min(largest, max(spread.largest, math.ceil(likely)))
        return cls(spread.largest, largest, count * spread.mean, context)
