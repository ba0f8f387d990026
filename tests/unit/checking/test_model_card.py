"""What a model's small files say of it, and what is refused of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.contracts.model_card import CONFIG, INDEX, SINGLE
from worker.failures import UserError
from worker.model_card import card_of, files_by_tensor, read_card, read_header

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 600}


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def test_the_sizes_of_a_model_that_also_sees_are_those_of_its_text_part() -> None:
    card = card_of({"text_config": {**SIZES, "max_position_embeddings": 32}, "vocab_size": 5}, 1000)

    assert (card.hidden_size, card.intermediate_size, card.layers, card.vocabulary) == (64, 128, 2, 600)
    assert card.positions == 32
    assert card.weight_bytes == 1000
    assert not card.is_quantised


def test_a_size_that_is_no_number_is_not_known() -> None:
    assert card_of({"vocab_size": "many", "text_config": None}, 0).vocabulary is None


def test_the_card_of_a_folder_counts_all_of_its_weights(tmp_path: Path) -> None:
    write(tmp_path / CONFIG, {**SIZES, "quantization_config": {}})
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (tmp_path / name).write_bytes(b"x" * 500)

    card = read_card(tmp_path)

    assert card == card_of({**SIZES, "quantization_config": {}}, 1000)
    assert card.is_quantised


@pytest.mark.parametrize("text", [None, "[]", "{", "[" * 100_000])
def test_a_config_that_cannot_be_read_gives_no_card(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / CONFIG).write_text(text)

    assert read_card(tmp_path) is None


def test_the_index_says_in_which_file_a_tensor_is(tmp_path: Path) -> None:
    write(tmp_path / INDEX, {"weight_map": {"a": "model-1.safetensors"}})

    assert files_by_tensor(tmp_path) == {"a": "model-1.safetensors"}


@pytest.mark.parametrize("part", ["../other.safetensors", "sub/part.safetensors", "weights.bin", 3])
def test_an_index_that_names_another_place_is_refused(tmp_path: Path, part: Any) -> None:
    write(tmp_path / INDEX, {"weight_map": {"a": part}})

    with pytest.raises(UserError, match="expected the name of a safetensors file beside it"):
        files_by_tensor(tmp_path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(b"x" * 100)

    with pytest.raises(UserError, match="is not a safetensors file"):
        read_header(tmp_path / SINGLE)
