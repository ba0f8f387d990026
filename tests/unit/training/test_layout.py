"""How the rows of a step are laid out in micro-batches."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as some

from worker.training.micro_batches.layout import StepLayout, lengths_for, micro_batches

LENGTHS = some.lists(some.integers(1, 3000), min_size=1, max_size=24)
BUDGETS = some.integers(1, 20_000)


@given(LENGTHS, BUDGETS, some.booleans())
def test_every_row_is_in_one_micro_batch_and_none_is_over_the_budget(
    lengths: list[int], tokens: int, packs: bool
) -> None:
    groups = micro_batches(lengths, StepLayout(tokens, packs))

    assert sorted(chain(*groups)) == [*range(len(lengths))]
    for group in (group for group in groups if len(group) > 1):
        longest = max(lengths[row] for row in group)
        used = sum(lengths[row] for row in group) if packs else len(group) * longest
        assert used <= tokens


@pytest.mark.parametrize("packs", [True, False])
def test_a_step_that_fits_packed_is_one_micro_batch_and_rows_of_one_length_always_are(packs: bool) -> None:
    assert micro_batches([5, 5, 5], StepLayout(15, packs)) == [[0, 1, 2]]


def test_packed_rows_fill_the_room_that_longer_ones_leave() -> None:
    assert micro_batches([4, 9, 6, 1], StepLayout(10, packs=True)) == [[1, 3], [2, 0]]


@pytest.mark.parametrize(("pass_tokens", "groups"), [(1, [[1], [0, 2]]), (100, [[1, 0, 2]])])
def test_rectangles_weigh_padding_against_another_pass(pass_tokens: int, groups: list[list[int]]) -> None:
    assert micro_batches([10, 50, 10], StepLayout(1000, packs=False, pass_tokens=pass_tokens)) == groups


@given(LENGTHS, BUDGETS)
def test_rectangles_are_never_dearer_than_one_row_at_a_time(lengths: list[int], tokens: int) -> None:
    layout = StepLayout(tokens, packs=False)

    groups = micro_batches(lengths, layout)

    costs = [len(group) * max(lengths[row] for row in group) + layout.pass_tokens for group in groups]
    assert sum(costs) <= sum(lengths) + layout.pass_tokens * len(lengths)


def test_a_budget_is_halved_down_to_the_longest_row() -> None:
    halved = StepLayout(4096, packs=True).halved(longest_row=3000)

    assert halved == StepLayout(3000, packs=True)
    assert halved.halved(longest_row=3000) is None


def test_a_longer_training_pads_less_because_more_lengths_pay() -> None:
    assert [lengths_for(steps) for steps in (60, 499, 500, 1999, 2000, 10**6)] == [4, 4, 8, 8, 16, 16]
