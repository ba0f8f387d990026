"""What a training is predicted to take, against what was measured, against counts by hand, and in its proportions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from app.contracts.memory_model import MicroBatchSize, Recomputation, bits_of, predict
from app.contracts.model_card import ModelCard
from app.contracts.model_shape import BaseShape, embedding_parameters, lora_parameters, shape_of, trained_parameters
from app.contracts.spec import LoraSpec
from tests.support.shapes import LLAMA_3B, TINY
from tests.support.specs import a_spec

GIB = 2**30
OLD_CARD: dict[str, Any] = {
    "positions": None, "vocabulary": 600, "hidden_size": 64, "intermediate_size": 128, "layers": 2,
    "is_quantised": False, "weight_bytes": 5000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "tokens", "recomputation", "optim", "measured_gib"),
    [
        (16, 4400, False, "adamw_torch_fused", 16),
        (4, 4400, False, "adamw_torch_fused", 12),
        (4, 4096, "unsloth", "adamw_8bit", 3.0),
        (4, 8192, "unsloth", "adamw_8bit", 3.5),
        (16, 8192, "unsloth", "adamw_8bit", 7.3),
        (16, 8192, False, "adamw_8bit", 24.0),
        (4, 32_768, "unsloth", "adamw_8bit", 6.3),
    ],
)
def test_the_prediction_is_at_most_a_tenth_above_what_was_measured_on_a_gpu(
    bits: int, tokens: int, recomputation: Recomputation, optim: str, measured_gib: float
) -> None:
    spec = a_spec(model={"load_in_4bit": bits == 4}, training={"optim": optim})

    predicted = predict(spec, LLAMA_3B, MicroBatchSize(tokens, recomputation)).peak() / GIB

    assert measured_gib <= predicted <= measured_gib * 1.1


def test_four_bits_are_counted_as_bitsandbytes_stores_them() -> None:
    linear = 28 * (2 * 3072 * 3072 + 2 * 3072 * 1024 + 3 * 3072 * 8192)
    blocks = linear // 64
    rest = (128_256 * 3072 + 57 * 3072) * 2

    weights = predict(a_spec(), LLAMA_3B, MicroBatchSize(1, False)).weights

    assert weights == pytest.approx(linear // 2 + blocks + blocks // 256 * 4 + rest, rel=1e-3)
    assert predict(a_spec(model={"load_in_4bit": False}), LLAMA_3B, MicroBatchSize(1, False)).weights == 6_425_499_648


@pytest.mark.parametrize(
    ("lora", "numbers"),
    [
        # Inputs and outputs of a layer: q 64 64, k 64 32, v 64 32, o 64 64, gate 64 128, up 64 128, down 128 64.
        ({"r": 1}, 2 * (128 + 96 + 96 + 128 + 192 + 192 + 192)),
        ({"r": 8, "target_modules": ["q_proj", "v_proj"]}, 2 * 8 * (128 + 96)),
        ({"r": 8, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}}, 2 * (8 * 128 + 2 * 96)),
        ({"r": 8, "target_modules": ["q_proj"], "layers_to_transform": [1]}, 8 * 128),
        ({"r": 8, "target_modules": ["k_proj"], "use_dora": True}, 2 * (8 * 96 + 32)),
        ({"r": 8, "target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]}, 2 * 8 * 128),
    ],
)
def test_the_parameters_of_an_adapter_are_counted(lora: dict[str, Any], numbers: int) -> None:
    assert lora_parameters(LoraSpec.model_validate(lora), TINY) == numbers


def test_an_embedding_is_trained_once_whichever_field_names_it() -> None:
    lora = LoraSpec.model_validate({"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]})

    assert embedding_parameters(lora, TINY) == 600 * 64


def test_full_finetuning_trains_everything_in_place() -> None:
    spec = a_spec(model={"full_finetuning": True}, training={"optim": "adamw_torch"})

    memory = predict(spec, TINY, MicroBatchSize(256, "unsloth"))

    assert (memory.weights, memory.trained) == (0, 2 * TINY.parameters)
    assert (memory.gradients, memory.optimizer) == (2 * TINY.parameters, 8 * TINY.parameters)
    assert trained_parameters(spec, TINY) == TINY.parameters


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"model": {"load_in_8bit": True, "load_in_4bit": False}}),
        ({"model": {"load_in_8bit": True}}, {"model": {"load_in_4bit": False}}),
        ({"model": {"load_in_4bit": False}}, {"model": {"load_in_4bit": False, "dtype": "float32"}}),
        ({"model": {"load_in_4bit": False}}, {"model": {"full_finetuning": True}}),
        ({}, {"lora": {"r": 256}}),
        ({}, {"lora": {"lora_dropout": 0.1}}),
        ({}, {"lora": {"use_dora": True}}),
        ({}, {"lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}}),
        ({"training": {"optim": "paged_adamw_8bit"}}, {}),
        ({}, {"training": {"optim": "adamw_torch"}}),
        ({"training": {"optim": "sgd"}}, {"training": {"optim": "adafactor"}}),
        ({}, {"training": {"label_smoothing_factor": 0.1}}),
    ],
)
def test_a_larger_training_is_predicted_to_take_more(less: dict[str, Any], more: dict[str, Any]) -> None:
    micro_batch = MicroBatchSize(4096, "unsloth")

    assert predict(a_spec(**less), LLAMA_3B, micro_batch).peak() < predict(a_spec(**more), LLAMA_3B, micro_batch).peak()


@given(tokens=some.integers(1, 200_000), further=some.integers(1, 200_000), rank=some.integers(1, 511))
def test_more_tokens_a_higher_rank_and_kept_activations_take_more(tokens: int, further: int, rank: int) -> None:
    def peak(tokens: int, rank: int, recomputation: Recomputation) -> int:
        return predict(a_spec(lora={"r": rank}), LLAMA_3B, MicroBatchSize(tokens, recomputation)).peak()

    # At the size from which the loss is computed in tiles, its buffer becomes a little smaller.
    assert peak(tokens, rank, "unsloth") <= peak(tokens + further, rank, "unsloth") + 2**26
    assert peak(tokens, rank, "unsloth") < peak(tokens, rank + 1, "unsloth")
    assert peak(tokens, rank, "unsloth") <= peak(tokens, rank, True) <= peak(tokens, rank, False)


def test_a_correction_changes_what_grows_with_the_tokens() -> None:
    memory = predict(a_spec(), LLAMA_3B, MicroBatchSize(8192, False))

    assert memory.peak(1.5) - memory.held == pytest.approx(1.5 * (memory.peak() - memory.held))


def test_a_card_of_an_older_version_has_a_shape_of_upper_bounds() -> None:
    old = shape_of(ModelCard.model_validate(OLD_CARD))

    assert old is not None
    assert (old.key_width, old.query_width, old.is_tied, old.parameters) == (64, 64, False, 2500)


@pytest.mark.parametrize("change", [{"hidden_size": None}, {"layers": None}, {"weight_bytes": 0}])
def test_a_model_that_is_not_understood_has_no_shape(change: dict[str, Any]) -> None:
    assert shape_of(ModelCard.model_validate({**OLD_CARD, **change})) is None


def test_a_quantised_model_has_the_parameters_that_its_sizes_say() -> None:
    shape = shape_of(ModelCard.model_validate({**OLD_CARD, "is_quantised": True, "is_tied": True}))

    assert isinstance(shape, BaseShape)
    assert shape.parameters == 2 * (4 * 64 * 64 + 3 * 64 * 128) + 600 * 64
    assert predict(a_spec(), shape, MicroBatchSize(256, False)).weights == 5000


@pytest.mark.parametrize(
    ("model", "bits"),
    [
        ({}, 4),
        ({"load_in_8bit": True}, 8),
        ({"load_in": "auto"}, 16),
        ({"full_finetuning": True, "dtype": "float32"}, 32),
    ],
)
def test_the_bits_of_a_weight_are_those_of_the_spec(model: dict[str, Any], bits: int) -> None:
    assert bits_of(a_spec(model=model)) == bits
