"""Modules that LoRA cannot sit on are refused with their place and the nearest name of one on which it can."""

import pytest

from app.contracts.spec import LoraSpec
from worker.failures import UserError
from worker.targets import all_linear, check_layers, check_patterns, check_saved, check_targets

LINEAR = {"q_proj", "v_proj", "down_proj"}
OTHERS = {"input_layernorm", "norm", "embed_tokens"}


@pytest.mark.parametrize(
    "targets", [["q_proj"], ["model.layers.0.self_attn.v_proj"], ["q_proj", "embed_tokens", "lm_head"]]
)
def test_linear_modules_and_embeddings_beside_them_are_taken(targets: list[str]) -> None:
    check_targets(targets, LINEAR, OTHERS, "org/model")


@pytest.mark.parametrize(
    ("targets", "param", "said"),
    [
        (["q_proj", "input_layernorm"], "lora.target_modules.1", "input_layernorm, which is not a linear module"),
        (["q_porj"], "lora.target_modules.0", "q_porj, which is not a module of org/model, expected .* mean q_proj?"),
        (["q_proj", "norm", "c_attn"], "lora.target_modules.1", "norm, .*(and 1 more)"),
        (["embed_tokens", "lm_head"], "lora.target_modules", "no module to which LoRA can be added"),
    ],
)
def test_others_are_refused_by_their_place(targets: list[str], param: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        check_targets(targets, LINEAR, OTHERS, "org/model")

    failure = refused.value.failure
    assert failure.param == param
    assert (failure.hint or "").endswith("down_proj, q_proj, v_proj")


def test_all_linear_modules_are_those_of_the_model_without_its_head() -> None:
    assert all_linear({*LINEAR, "lm_head"}, "org/model") == ["down_proj", "q_proj", "v_proj"]

    with pytest.raises(UserError, match="all-linear, but the linear modules of org/model cannot be read"):
        all_linear(set(), "org/model")


def test_a_rank_of_a_module_that_all_linear_does_not_name_is_refused_by_its_field() -> None:
    lora = LoraSpec(target_modules="all-linear", rank_pattern={"q_proj": 4, "qkv": 4})

    with pytest.raises(UserError, match=r"rank_pattern.qkv: found qkv, expected one of .*: q_proj, v_proj") as refused:
        check_patterns(lora, ["q_proj", "v_proj"], "org/model")

    assert refused.value.failure.param == "lora.rank_pattern.qkv"


def test_a_module_to_save_may_be_any_that_is_there() -> None:
    check_saved(["lm_head", "input_layernorm"], LINEAR | OTHERS, "org/model")

    with pytest.raises(UserError, match=r"modules_to_save.1: found nrom.* mean norm\?"):
        check_saved(["norm", "nrom"], LINEAR | OTHERS, "org/model")


def test_a_layer_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    check_layers([0, 3], 4, "org/model")
    check_layers(None, 4, "org/model")
    check_layers([9], None, "org/model")

    with pytest.raises(UserError, match="found 4, expected a number from 0 to 3: org/model has 4 layers") as refused:
        check_layers([0, 4], 4, "org/model")

    assert refused.value.failure.param == "lora.layers_to_transform.1"
