"""The tensors of micro-batches: which token follows which, what is trained, and what is padding."""

from typing import Any

import torch

from worker.training.micro_batches.layout import StepLayout
from worker.training.micro_batches.tensors import StepRows, lay_out

EXAMPLES: list[dict[str, Any]] = [
    {"input_ids": [1, 2, 3], "labels": [1, 2, 3]},
    {"input_ids": [4, 5], "labels": [-100, 5]},
]


def the_one(examples: list[dict[str, Any]], layout: StepLayout) -> Any:
    (micro_batch,) = lay_out(StepRows.collate(examples), layout)
    return micro_batch


def test_packed_rows_follow_each_other_and_padding_is_a_segment_of_its_own() -> None:
    found = the_one(EXAMPLES, StepLayout(64, packs=True, lengths_an_octave=8))

    assert found.ids[0, :6].tolist() == [1, 2, 3, 4, 5, 0]
    assert found.ids.shape == (1, 64)
    assert found.segments == (3, 2, 59)
    assert found.positions[0, :7].tolist() == [0, 1, 2, 0, 1, 0, 1]


def test_the_first_token_of_a_row_is_never_predicted() -> None:
    found = the_one(EXAMPLES, StepLayout(64, packs=True))

    assert found.labels.tolist() == [[-100, 2, 3, -100, 5]]
    assert StepRows.collate(EXAMPLES).targets == 3


def test_rectangles_are_padded_on_the_right_and_masked() -> None:
    found = the_one(EXAMPLES, StepLayout(64, packs=False, pass_tokens=100))

    assert found.ids.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert found.labels.tolist() == [[-100, 2, 3], [-100, 5, -100]]
    assert found.mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert found.segments is None


def test_rows_of_one_length_have_a_sequence_each_because_they_need_no_segments() -> None:
    found = the_one([EXAMPLES[0], EXAMPLES[0]], StepLayout(64, packs=True))

    assert (tuple(found.ids.shape), found.segments) == ((2, 3), None)


def test_the_parts_of_a_packed_row_stay_segments() -> None:
    row = {"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5], "seq_lengths": [3, 2]}

    found = the_one([row], StepLayout(64, packs=True))

    assert found.segments == (3, 2)
    assert found.labels.tolist() == [[-100, 2, 3, -100, 5]]


def test_the_arguments_are_those_that_the_models_forward_takes() -> None:
    packed = the_one(EXAMPLES, StepLayout(64, packs=True)).arguments(torch.device("cpu"))
    padded = the_one(EXAMPLES, StepLayout(64, packs=False, pass_tokens=100)).arguments(torch.device("cpu"))

    assert packed["packed_seq_lengths"].tolist() == [3, 2]
    assert "attention_mask" not in packed
    assert "packed_seq_lengths" not in padded
