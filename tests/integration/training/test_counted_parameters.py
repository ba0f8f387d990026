"""The parameters that the memory model counts are those of the libraries' own modules."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from app.contracts.model_card import CONFIG, SINGLE
from app.contracts.model_shape import BaseShape, lora_parameters, shape_of
from app.contracts.spec import LoraSpec
from tests.support.tiny_model import build_tiny_model
from worker.model_card import card_of, read_header


def shape_in(folder: Path) -> BaseShape:
    shapes = {name: tuple(entry["shape"]) for name, entry in read_header(folder / SINGLE)[0].items()}
    card = card_of(json.loads((folder / CONFIG).read_text()), (folder / SINGLE).stat().st_size, shapes)
    shape = shape_of(card)
    assert shape is not None
    return shape


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize(
    "lora",
    [
        {"r": 16},
        {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {"v_proj": 9}},
        {"r": 8, "target_modules": ["k_proj", "up_proj"], "layers_to_transform": [0]},
        {"r": 8, "target_modules": ["o_proj", "gate_proj"], "use_dora": True},
    ],
)
def test_the_counts_are_those_of_the_real_model(tmp_path: Path, family: str, lora: dict[str, Any]) -> None:
    folder, spec = build_tiny_model(tmp_path, family=family), LoraSpec.model_validate(lora)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    shape = shape_in(folder)
    parameters = sum(each.numel() for each in model.parameters())
    linear = sum(each.numel() for name, each in model.named_parameters() if "proj" in name and each.ndim == 2)

    names = {"r", "target_modules", "rank_pattern", "layers_to_transform", "use_dora"}
    arguments = {name: value for name, value in spec.model_dump().items() if name in names and value is not None}
    adapted = get_peft_model(model, LoraConfig(**arguments))

    assert shape.parameters == parameters
    assert linear <= shape.linear <= linear * 1.01
    assert sum(inputs * outputs for inputs, outputs in shape.projections.values()) * shape.layers == linear
    assert lora_parameters(spec, shape) == adapted.get_nb_trainable_parameters()[0]
