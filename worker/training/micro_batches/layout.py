"""Lays the rows of one optimizer step out in micro-batches. Pure functions.

What is learned is fixed by the spec: which rows a step has, and that its gradient is that of the mean loss of all their
trained tokens. How many forward passes compute it is decided here, by a budget of tokens:

    rows of a step ──> packed: one sequence of rows side by side    [a a a a b b c c c . .]    "." is padding
                   └─> rectangle: one sequence a row                [a a a a] [b b . .]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.contracts.token_buckets import bucket

# What a forward and backward pass costs beyond its tokens, as a number of tokens that take as long. On a GPU a model of
# any size needs the time of a thousand tokens and more to launch its kernels. On two cores SmolLM2-135M needed that of
# 40 to 170, by rough measurements.
PASS_TOKENS_ON_GPU, PASS_TOKENS_ON_CPU = 1024, 96
# Lengths an octave for trainings of fewer than so many steps. A new length costs about half a second (two steps that
# wait for launches, and the recording of a graph), a longer sequence a little in each of its steps.
FEW_STEPS = ((500, 4), (2000, 8))
MOST_LENGTHS_AN_OCTAVE = 16


@dataclass(frozen=True)
class StepLayout:
    """`tokens`: the most tokens of a micro-batch, padding included. A longer row is a micro-batch of its own.

    `packs`: whether the model keeps rows apart that share one sequence. `lengths_an_octave`: to how many lengths
    between two powers of two sequences are padded; None: not at all, as on a CPU. `pass_tokens`: the cost of another
    micro-batch.
    """

    tokens: int
    packs: bool
    lengths_an_octave: int | None = None
    pass_tokens: int = PASS_TOKENS_ON_CPU

    def halved(self, longest_row: int) -> "StepLayout | None":
        """Half of the budget, or None if the budget has no room for two rows already."""
        return replace(self, tokens=max(longest_row, self.tokens // 2)) if self.tokens > longest_row else None

    def length(self, tokens: int) -> int:
        """The length of a sequence with so many tokens of rows."""
        return tokens if self.lengths_an_octave is None else bucket(tokens, self.lengths_an_octave)


def lengths_for(steps: int) -> int:
    """The lengths an octave that cost a training of so many optimizer steps the least time."""
    return next((lengths for fewer_than, lengths in FEW_STEPS if steps < fewer_than), MOST_LENGTHS_AN_OCTAVE)


def micro_batches(lengths: Sequence[int], layout: StepLayout) -> list[list[int]]:
    """Distribute rows of these lengths over micro-batches. Returns the positions of each one's rows, longest first.

    Rows of one length keep their order, so the result depends on the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    return _packed(order, lengths, layout) if layout.packs else _rectangles(order, lengths, layout)


def shares(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Distribute rows of these lengths over `count` ranks, with about as many tokens each. Returns their positions.

    Each row, the longest first, goes to the rank that has the fewest tokens. The result depends on the lengths alone.
    """
    found: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        rank = tokens.index(min(tokens))
        found[rank].append(position)
        tokens[rank] += lengths[position]
    return found


def _packed(order: Sequence[int], lengths: Sequence[int], layout: StepLayout) -> list[list[int]]:
    """First-fit decreasing: each row goes to the first micro-batch that has room."""
    groups: list[list[int]] = []
    for position in order:
        sizes = ((one, layout.length(sum(lengths[row] for row in one) + lengths[position])) for one in groups)
        rooms = (one for one, size in sizes if size <= layout.tokens)
        group = next(rooms, None)
        if group is None:
            groups.append([position])
        else:
            group.append(position)
    return groups


def _rectangles(order: Sequence[int], lengths: Sequence[int], layout: StepLayout) -> list[list[int]]:
    """The cheapest way to cut the rows, sorted by length, into groups that are padded to their longest row.

    `cheapest[n]` is the least cost of the first n rows, and `cuts[n]` is where their last group begins.
    """
    cheapest, cuts = [0], [0]
    for end in range(1, len(order) + 1):
        sizes = {start: (end - start) * layout.length(lengths[order[start]]) for start in range(end)}
        costs = {
            start: cheapest[start] + size + layout.pass_tokens
            for start, size in sizes.items()
            if start == end - 1 or size <= layout.tokens
        }
        cuts.append(min(costs, key=lambda start: (costs[start], start)))
        cheapest.append(costs[cuts[-1]])
    groups, end = [], len(order)
    while end:
        groups.append([*order[cuts[end] : end]])
        end = cuts[end]
    return groups[::-1]
