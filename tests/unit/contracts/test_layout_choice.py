"""Which layout is chosen for a training, how long its steps are predicted to take, and what is said if none fits."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from app.contracts.layout_choice import (
    LARGEST_CORRECTION,
    SMALLEST_CORRECTION,
    ChosenLayout,
    TrainingCase,
    TrainingDevice,
    bounded,
    choose,
    pinned_values,
)
from app.contracts.step_time import operations, rate_of
from app.contracts.step_tokens import StepTokens
from app.contracts.token_buckets import bucket, buckets
from app.contracts.tokens import Bucket, Spread
from tests.support.shapes import LLAMA_3B
from tests.support.specs import a_spec

GIB = 2**30
H200 = "NVIDIA H200, 143771 MiB"
CHATS = StepTokens(longest=2048, largest=9000, mean=4400.0, mean_context=1050.0)


def chosen(
    gib: float, rows: StepTokens = CHATS, correction: float = 1.0, layout: Any = "auto", **groups: Any
) -> ChosenLayout:
    case = TrainingCase(a_spec(**groups), LLAMA_3B, rows, correction)
    return choose(case, TrainingDevice(int(gib * GIB), rate_of(H200)))


def test_with_much_memory_a_step_is_one_micro_batch_without_recomputation() -> None:
    choice = chosen(130)

    assert (choice.fits, choice.micro_batch_tokens, choice.recomputation) == (True, 9216, False)


def test_with_little_memory_activations_are_recomputed() -> None:
    choice = chosen(6)

    assert choice.fits
    assert choice.recomputation == "unsloth"
    assert choice.needed_bytes <= 6 * GIB


def test_without_memory_for_the_longest_row_none_fits_and_the_reason_says_what_would() -> None:
    choice = chosen(4, StepTokens(32_768, 32_768, 32_768.0, 32_768.0))

    assert not choice.fits
    assert "max_seq_length" in choice.reason
    named = int(choice.reason.rpartition("max_seq_length ")[2].split()[0])
    assert chosen(4, StepTokens(named, named, float(named), float(named))).fits
    assert not chosen(4, StepTokens(named + 1, named + 1, float(named), float(named))).fits


@pytest.mark.parametrize(("gib", "bits"), [(130, 16), (5, 4)])
def test_the_base_has_16_bits_where_that_fits_and_else_4(gib: float, bits: int) -> None:
    choice = chosen(gib, model={"load_in": "auto"})

    assert choice.bits == bits
    assert pinned_values(a_spec(model={"load_in": "auto"}), choice) == {
        "model.load_in": None,
        "model.load_in_4bit": bits == 4,
    }


def test_a_base_that_is_quantised_already_keeps_its_4_bits() -> None:
    case = TrainingCase(a_spec(model={"load_in": "auto"}), replace(LLAMA_3B, is_quantised=True), CHATS)

    assert choose(case, TrainingDevice(130 * GIB)).bits == 4


def test_a_spec_that_says_how_to_load_is_obeyed() -> None:
    choice = chosen(5, model={"load_in_4bit": False})

    assert (choice.fits, choice.bits) == (False, 16)
    assert "load_in_4bit would fit" in choice.reason
    assert pinned_values(a_spec(), choice) == {}


def test_a_given_layout_is_only_held_against_the_memory() -> None:
    choice = chosen(130, training={"per_device_train_batch_size": 2, "layout": "as_given"})

    assert (choice.micro_batch_tokens, choice.recomputation, choice.fits) == (4096, "unsloth", True)
    assert not chosen(3, training={"layout": "as_given"}).fits


def test_a_correction_upwards_makes_micro_batches_smaller() -> None:
    assert chosen(4, correction=1.5).micro_batch_tokens < chosen(4).micro_batch_tokens
    assert (bounded(9), bounded(0.1), bounded(1.1)) == (LARGEST_CORRECTION, SMALLEST_CORRECTION, 1.1)


@given(
    gib=some.floats(0.5, 140),
    lengths=some.lists(some.lists(some.integers(1, 20_000), min_size=1, max_size=8), min_size=1, max_size=20),
)
def test_a_chosen_layout_fits_and_holds_every_row(gib: float, lengths: list[list[int]]) -> None:
    rows = StepTokens.of_steps(lengths)
    choice = chosen(gib, rows)

    assert choice.micro_batch_tokens >= rows.longest
    assert choice.micro_batch_tokens == bucket(choice.micro_batch_tokens)
    assert choice.fits == (choice.needed_bytes <= int(gib * GIB))
    if choice.fits:
        more = chosen(gib + 10, rows)
        assert more.fits
        assert (more.seconds or 0) <= (choice.seconds or 0)


def test_the_steps_of_rows_are_counted() -> None:
    assert StepTokens.of_steps([[100, 300], [200]]) == StepTokens(300, 400, 300.0, 140_000 / 600)


def test_the_steps_of_a_spread_are_estimated() -> None:
    spread = Spread(
        total=55_000, mean=550.0, p50=500, p90=1200, p99=2000, largest=2048,
        histogram=[Bucket(up_to=512, rows=60), Bucket(up_to=1024, rows=30), Bucket(up_to=2048, rows=10)],
    )  # fmt: skip

    rows = StepTokens.of_spread(spread, a_spec())

    assert (rows.longest, rows.mean) == (2048, 8 * 550.0)
    assert 2 * 4400 <= rows.largest <= 8 * 2048
    assert 550 < rows.mean_context <= 2048
    sorted_rows = a_spec(training={"train_sampling_strategy": "group_by_length"})
    assert StepTokens.of_spread(spread, sorted_rows).largest == 8 * 2048
    packed = StepTokens.of_spread(spread, a_spec(training={"packing": True}))
    assert (packed.longest, packed.largest) == (2048, 8 * 2048)


@pytest.mark.parametrize(
    ("context", "recomputes", "tokens_a_second"),
    [(512, False, 59_600), (8192, False, 45_900), (32_768, False, 26_400), (512, True, 41_500), (8192, True, 32_500)],
)
def test_the_arithmetic_is_that_of_the_measurements(context: int, recomputes: bool, tokens_a_second: int) -> None:
    needed = operations(a_spec(), LLAMA_3B, 1.0, float(context), recomputes=recomputes)

    assert 790e12 / needed == pytest.approx(tokens_a_second, rel=0.01)


@pytest.mark.parametrize(
    ("tokens", "recomputation", "measured"),
    [(8192, False, 24_344), (8192, "unsloth", 17_593), (32_768, "unsloth", 11_239)],
)
def test_the_speed_is_near_the_measured_one(tokens: int, recomputation: Any, measured: int) -> None:
    rows = StepTokens(tokens, tokens, float(tokens), float(tokens))
    spec = a_spec(
        lora={"use_gradient_checkpointing": recomputation},
        training={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "layout": "as_given"},
    )

    device = TrainingDevice(130 * GIB, rate_of("NVIDIA H100 80GB HBM3"))
    choice = choose(TrainingCase(spec, LLAMA_3B, rows), device)

    assert tokens / (choice.seconds or 1) == pytest.approx(measured, rel=0.15)


def test_a_card_that_is_not_known_has_no_rate() -> None:
    assert rate_of("cpu (x86_64)") is rate_of("NVIDIA RTX A1000") is None
    assert rate_of("NVIDIA L40, 46068 MiB") != rate_of("NVIDIA L4, 23034 MiB")
    assert (rate_of("NVIDIA H100 PCIe, 81559 MiB") or 0) < (rate_of("NVIDIA H100 80GB HBM3") or 0)
    assert choose(replace(TrainingCase(a_spec(), LLAMA_3B, CHATS)), TrainingDevice(130 * GIB)).seconds is None


@given(tokens=some.integers(1, 10**6))
def test_a_length_wastes_at_most_an_eighth_or_64_tokens(tokens: int) -> None:
    length = bucket(tokens)

    assert tokens <= length < tokens + max(64, tokens / 8 + 1)
    assert bucket(length) == length
    assert next(buckets(tokens, 2 * tokens)) == length
    assert len(list(buckets(tokens, 2 * tokens))) <= 17
