"""What PEFT makes of a config on a base is asked once a config."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig

from tests.integration.engine.model_caches import ServedModel
from worker.inference.models.bases import Placement, load_base
from worker.inference.models.peft_shapes import MOST_CONFIGS, PeftShapes


@pytest.fixture
def peft_shapes(served_model: ServedModel) -> PeftShapes:
    return PeftShapes(AutoConfig.from_pretrained(served_model.base.folder))


def a_config(**fields: Any) -> LoraConfig:
    return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], "r": 4, **fields})


def test_adapters_of_one_config_share_a_blueprint_wherever_they_come_from(peft_shapes: PeftShapes) -> None:
    first = peft_shapes.of(a_config(base_model_name_or_path="here"))

    assert peft_shapes.of(a_config(base_model_name_or_path="there")) is first
    assert peft_shapes.of(a_config(target_modules=["v_proj", "q_proj"])) is first


@pytest.mark.parametrize(
    "fields", [{"r": 8}, {"lora_alpha": 9}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}], ids=str
)
def test_another_config_has_a_blueprint_of_its_own(peft_shapes: PeftShapes, fields: dict[str, Any]) -> None:
    first = peft_shapes.of(a_config())

    assert peft_shapes.of(a_config(**fields)) is not first
    assert peft_shapes.of(a_config()) is first


def test_a_config_is_left_as_it_was(peft_shapes: PeftShapes) -> None:
    config = a_config()
    before = config.to_dict()

    peft_shapes.of(config)

    assert config.to_dict() == before


def test_a_blueprint_tells_weights_and_strength_of_every_layer(peft_shapes: PeftShapes) -> None:
    peft_shape = peft_shapes.of(a_config(lora_alpha=12, modules_to_save=["lm_head"]))

    assert peft_shape.shapes["base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"] == (4, 64)
    assert "base_model.model.lm_head.weight" in peft_shape.shapes
    assert {(part.scaling, part.is_plain) for part in peft_shape.parts.values()} == {(3.0, True)}
    assert len(peft_shape.parts) == 4


def test_a_base_can_be_loaded_while_adapters_of_another_are_read(served_model: ServedModel) -> None:
    """PEFT replaces parts of torch for the whole process while it draws."""
    config = AutoConfig.from_pretrained(served_model.base.folder)
    with ThreadPoolExecutor() as threads:
        drawn = [threads.submit(PeftShapes(config).of, a_config(r=rank)) for rank in range(1, 30)]
        loaded = [threads.submit(load_base, served_model.base, Placement("cpu", torch.float32)) for _ in range(20)]

    assert all(one.result().shapes for one in drawn)
    assert all(not parameter.is_meta for one in loaded for parameter in one.result().parameters())


def test_the_oldest_blueprints_make_room(peft_shapes: PeftShapes) -> None:
    first = peft_shapes.of(a_config())

    for rank in range(1, MOST_CONFIGS + 1):
        peft_shapes.of(a_config(r=rank, lora_alpha=1, target_modules=["q_proj"], layers_to_transform=[0]))

    assert peft_shapes.of(a_config()) is not first
