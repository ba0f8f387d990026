"""Adapters that are more than LoRA on linear layers: merged into their base, they answer as PEFT does, in batches."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from app.contracts.generation import EngineError
from tests.integration.engine.conftest import ON_CPU, MakeBatching
from tests.integration.engine.families import FAMILIES, build_family
from tests.integration.engine.many_requests import tokens_of_all
from tests.integration.engine.merged import MORE_THAN_LORA
from tests.integration.engine.model_caches import ServedModel, build_tiny_adapter, expected, reference
from tests.integration.engine.probes import a_bundle, an_order, difference_of, proof_of, reason_of
from tests.integration.engine.requests import PROMPT, a_request, last_of, tokens_of
from tests.integration.engine.test_engine_bundles import with_config, with_tensors
from tests.support.serial_engine import SerialEngine
from worker.inference.batching.engine import BatchingEngine
from worker.inference.engine import AdapterFolder, Ended, ModelFolder
from worker.inference.models.adapters import validate_bundle
from worker.inference.models.bases import Placement, load_base
from worker.inference.models.merging import merge
from worker.inference.models.peft_shapes import PeftShapes

PROMPTS = (PROMPT, (5, 9), tuple(range(10, 60)), (300, 200, 100))
# PEFT takes the biases of LoRA for weights that were cut into pieces.
pytestmark = pytest.mark.filterwarnings("ignore:.*have invalid shape", "ignore:.*tie_word_embeddings")


@pytest.fixture
def engine(make_batching: MakeBatching) -> BatchingEngine:
    return make_batching(adapters=4)


@pytest.mark.parametrize("name", MORE_THAN_LORA)
def test_it_answers_in_batches_as_peft_does_alone(engine: BatchingEngine, biased_model: ServedModel, name: str) -> None:
    requests = [a_request(biased_model, name, prompt=prompt) for prompt in PROMPTS]
    of_the_base = a_request(biased_model)

    answers = tokens_of_all(engine, requests)
    seen = engine.health()
    afterwards = tokens_of(engine, of_the_base)

    plain = [reference(biased_model.base, None, prompt, 12) for prompt in PROMPTS]
    assert answers == [expected(request) for request in requests] != plain
    assert seen.loaded_merged == biased_model.adapters[name].name
    assert (seen.answers, seen.answers_reason) == ("in_batches", None)
    assert afterwards == expected(of_the_base)
    assert engine.health().loaded_merged is None


def test_those_of_all_kinds_are_answered_beside_each_other(engine: BatchingEngine, biased_model: ServedModel) -> None:
    names = ("plain", "all biases", "base", "directions", "a head", "all biases", "base", "plain")
    requests = [a_request(biased_model, name) for name in names]

    assert tokens_of_all(engine, requests) == [expected(request) for request in requests]


def test_a_beginning_is_shared_within_the_merged_model_and_not_with_its_base(
    engine: BatchingEngine, biased_model: ServedModel
) -> None:
    requests = [
        a_request(biased_model, name, prompt=(*range(10, 58), last))
        for last, name in enumerate(("base", "all biases", "all biases", "base"), start=80)
    ]

    ends = [last_of(engine, request) for request in requests]

    assert [end.cached_tokens for end in ends if isinstance(end, Ended)] == [0, 0, 48, 48]


BIAS = "base_model.model.model.layers.1.self_attn.k_proj.bias"
HEAD = "base_model.model.lm_head.weight"
DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a stray bias": (
        "all biases",
        with_tensors(lambda t: {**t, BIAS.replace("k_proj", "o_proj"): torch.ones(64)}),
        "o_proj.bias is not an adapter weight",
    ),
    "no bias": ("all biases", with_tensors(lambda t: {k: t[k] for k in t if k != BIAS}), f"{BIAS} is missing"),
    "a longer bias": ("all biases", with_tensors(lambda t: {**t, BIAS: torch.ones(64)}), f"{BIAS} has the shape (64,)"),
    "a bias that is no number": (
        "all biases",
        with_tensors(lambda t: {**t, BIAS: t[BIAS] * torch.nan}),
        f"{BIAS} holds numbers that are not finite",
    ),
    "a head of another vocabulary": (
        "a head",
        with_tensors(lambda t: {**t, HEAD: torch.cat([t[HEAD], t[HEAD][:8]])}),
        f"{HEAD} has the shape (532, 64), the base needs (524, 64)",
    ),
    "a direction without length": (
        "directions",
        with_tensors(lambda t: {k: v * 1e30 if "lora_" in k else v for k, v in t.items()}),
        "merged into its base, model.layers.0.self_attn.v_proj.weight holds numbers that are not finite",
    ),
    "other layers": ("directions", with_config(target_modules=["c_attn"]), "c_attn"),
}


def with_a_broken_adapter(served_model: ServedModel, folder: Path, damage: str) -> ServedModel:
    name, break_it, _ = DAMAGES[damage]
    shutil.copytree(served_model.adapters[name].folder, folder)
    break_it(folder)
    return replace(served_model, adapters={**served_model.adapters, "broken": AdapterFolder("adapter-x@v1", folder)})


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_does_not_fit_is_rejected_and_the_loaded_base_stays(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path, damage: str
) -> None:
    served_model = with_a_broken_adapter(biased_model, tmp_path / "bundle", damage)
    tokens_of(engine, a_request(served_model, "plain"))
    host = engine._model_cache.host

    error = last_of(engine, a_request(served_model, "broken"))

    assert isinstance(error, EngineError)
    assert (error.status, error.code, error.param) == (409, "adapter_rejected", "adapter")
    assert DAMAGES[damage][2] in error.message
    assert tokens_of(engine, a_request(served_model)) == expected(a_request(served_model))
    assert engine._model_cache.host is host is not None


def a_model_of(family: str, tokenizer: Path, folder: Path, **config: Any) -> ServedModel:
    """A base of this family, and the adapter "odd" of it."""
    base = ModelFolder(family, build_family(family, folder / "base"))
    for path in tokenizer.glob("tokenizer*"):
        shutil.copy(path, base.folder)
    odd = build_tiny_adapter(folder / "odd", base.folder, seed=1, r=4, **config)
    return ServedModel(base, base, base, {"odd": AdapterFolder("adapter-odd@v1", odd)})


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a model that no batch can hold": (
        "Bloom, whose positions are in its scores",
        {"bias": "all", "target_modules": ["query_key_value"]},
    ),
    "layers that are no linear ones": ("GPT-2", {"bias": "all", "target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "parameters of experts": (
        "Qwen3 with experts",
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_families_answer_as_peft_does(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path, case: str
) -> None:
    family, config = OTHERS[case]
    served_model = a_model_of(family, biased_model.base.folder, tmp_path, **config)
    requests = [a_request(served_model, name, prompt=(3, 4, 5)) for name in ("odd", "base", "odd")]

    answers = tokens_of_all(engine, requests)

    right = [expected(request) for request in requests]
    assert answers == right
    assert right[0] != right[1]
    assert (engine.health().answers == "in_batches") == FAMILIES[family].is_batched
    assert (engine.health().answers_reason is None) == FAMILIES[family].is_batched


def test_the_engine_that_merges_nothing_rejects_trained_biases_by_name(biased_model: ServedModel) -> None:
    engine = SerialEngine(ON_CPU)

    error = last_of(engine, a_request(biased_model, "all biases"))
    engine.close()

    assert engine.join(30)
    assert isinstance(error, EngineError)
    assert (error.status, error.code) == (409, "adapter_rejected")
    assert "bias cannot be served beside other adapters" in error.message


def merged_in(served_model: ServedModel, name: str, dtype: torch.dtype) -> Any:
    base = load_base(served_model.base, Placement("cpu", dtype))
    adapter = served_model.adapters[name]
    return merge(adapter, validate_bundle(adapter, PeftShapes(base.config)), base)


@pytest.mark.parametrize("name", ["all biases", "directions", "a head"])
def test_merged_weights_of_a_coarse_type_are_rounded_once(biased_model: ServedModel, name: str) -> None:
    coarse = merged_in(biased_model, name, torch.bfloat16).state_dict()
    base = load_base(biased_model.base, Placement("cpu", torch.bfloat16)).float()
    adapter = biased_model.adapters[name]
    fine = merge(adapter, validate_bundle(adapter, PeftShapes(base.config)), base).state_dict()

    assert all(torch.equal(coarse[key], fine[key].bfloat16()) for key in fine)
    assert {weights.dtype for weights in coarse.values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["a head", "embeddings", "LoRA on the embeddings"])
def test_what_is_tied_in_the_base_is_changed_only_where_it_was_trained(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(biased_model.base.folder, tmp_path / "tied")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    served_model = replace(biased_model, base=ModelFolder("tied", folder))
    request, of_the_base = a_request(served_model, name), a_request(served_model)

    answer = tokens_of(engine, request)

    assert answer == expected(request) != expected(of_the_base)
    assert engine.health().loaded_merged == served_model.adapters[name].name
    assert tokens_of(engine, of_the_base) == expected(of_the_base)


@pytest.mark.parametrize("name", ["all biases", "directions", "a head"])
def test_it_is_proved_by_the_way_in_which_it_answers(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path, name: str
) -> None:
    bundle = a_bundle(biased_model, name, tmp_path / "bundle")

    proof = proof_of(engine, an_order(bundle, biased_model.base.folder))

    assert difference_of(proof) < 1e-4
    assert proof.base_difference is not None
    assert proof.base_difference > 0.1
    assert proof.base_gap is not None
    assert proof.base_gap < 1e-4


def test_a_bias_that_was_not_loaded_is_no_proof(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path
) -> None:
    bundle = a_bundle(biased_model, "all biases", tmp_path / "bundle")
    with_tensors(lambda t: {key: t[key] * (not key.endswith("v_proj.bias")) for key in t})(bundle)

    proof = proof_of(engine, an_order(bundle, biased_model.base.folder))

    assert "its log-probabilities are" in reason_of(proof)


def test_adapters_of_a_quantised_base_are_beside_it_and_what_is_more_is_merged_into_its_values(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path
) -> None:
    wish = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    folder = biased_model.base.folder
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=wish).save_pretrained(tmp_path / "base")
    served_model = replace(biased_model, base=ModelFolder("quantised", tmp_path / "base"))
    requests = [a_request(served_model, name) for name in ("plain", "base", "all biases", "plain")]

    answers = tokens_of_all(engine, requests)

    right = [expected(request) for request in requests]
    assert answers == right
    assert len(set(map(tuple, right))) == 3
    assert engine.health().answers == "in_batches"
