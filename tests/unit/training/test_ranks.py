"""How the rows of a step are shared among ranks, and how gradients are put together to be added up."""

import random
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from worker.training.micro_batches.layout import shares
from worker.training.ranks.group import parts_of


@given(some.lists(some.integers(1, 3000), max_size=40), some.integers(1, 8))
def test_every_row_has_one_rank_and_no_two_ranks_differ_by_more_than_a_row(lengths: list[int], count: int) -> None:
    found = shares(lengths, count)

    assert sorted(chain(*found)) == [*range(len(lengths))]
    tokens = [sum(lengths[row] for row in share) for share in found]
    assert max(tokens) - min(tokens) <= max(lengths, default=0)


def test_ranks_have_nearly_the_same_tokens_of_a_step_of_many_rows() -> None:
    chance = random.Random(0)
    lengths = [int(chance.lognormvariate(6.0, 0.8)) for _ in range(32)]

    tokens = [sum(lengths[row] for row in share) for share in shares(lengths, 2)]

    assert max(tokens) / sum(tokens) < 0.51


@pytest.mark.parametrize(("most", "bounds"), [(100, [(0, 3)]), (12, [(0, 2), (2, 3)]), (1, [(0, 1), (1, 2), (2, 3)])])
def test_gradients_are_put_together_up_to_a_size(most: int, bounds: list[tuple[int, int]]) -> None:
    parameters = [torch.zeros(2, 3), torch.zeros(6), torch.zeros(4, 1)]

    parts = parts_of(parameters, most)

    assert [(part.begin, part.end) for part in parts] == bounds
    for part in parts:
        assert [view.shape for view in part.views] == [one.shape for one in parameters[part.begin : part.end]]
        assert len(part.flat) == sum(view.numel() for view in part.views)
