"""Adapters that are more than LoRA on linear layers: merged into their base, they answer as PEFT does, in batches."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from app.contracts.generation import EngineError
from tests.integration.engine.families import FAMILIES, build_family
from tests.integration.engine.many_requests import answer_tokens, ask_all
from tests.integration.engine.merged import MORE_THAN_LORA, biased_model
from tests.integration.engine.model_caches import ServedModel, build_tiny_adapter, reference
from tests.integration.engine.probes import a_bundle, an_order, proof_of
from tests.integration.engine.requests import PROMPT, a_request, last_of, tokens_of
from tests.integration.engine.test_engine_bundles import with_config, with_tensors
from tests.support.serial_engine import SerialEngine
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.engine import AdapterFolder, ModelFolder
from worker.inference.models.adapters import validate_bundle
from worker.inference.models.bases import Placement, load_base
from worker.inference.models.merging import merge
from worker.inference.models.peft_shapes import PeftShapes

__all__ = ["biased_model"]
ON_CPU = Placement("cpu", torch.float32)
PROMPTS = (PROMPT, (5, 9), tuple(range(10, 60)), (300, 200, 100))
# PEFT takes the biases of LoRA for weights that were cut into pieces.
pytestmark = pytest.mark.filterwarnings("ignore:.*have invalid shape", "ignore:.*tie_word_embeddings")


@pytest.fixture
def engine() -> Iterator[BatchingEngine]:
    engine = BatchingEngine(ON_CPU, limits=BatchLimits(adapters=4))
    yield engine
    free, total = engine.count_blocks()
    engine.close()
    assert engine.join(30)
    assert free == total


@pytest.mark.parametrize("name", MORE_THAN_LORA)
def test_it_answers_in_batches_as_peft_does_alone(engine: BatchingEngine, biased_model: ServedModel, name: str) -> None:
    answers = ask_all(engine, [a_request(biased_model, name, prompt=prompt) for prompt in PROMPTS])
    seen = engine.health()
    afterwards = tokens_of(engine, a_request(biased_model))

    adapter = biased_model.adapters[name]
    right = [reference(biased_model.base, adapter, prompt, 12) for prompt in PROMPTS]
    plain = [reference(biased_model.base, None, prompt, 12) for prompt in PROMPTS]
    assert [answer_tokens(events) for events in answers] == right != plain
    assert (seen.loaded_merged, seen.answers, seen.answers_reason) == (adapter.name, "in_batches", None)
    assert afterwards == plain[0]
    assert engine.health().loaded_merged is None


def test_those_of_all_kinds_are_answered_beside_each_other(engine: BatchingEngine, biased_model: ServedModel) -> None:
    names = ["plain", "all biases", "base", "directions", "a head", "all biases", "base", "plain"]

    answers = ask_all(engine, [a_request(biased_model, name) for name in names])

    base = biased_model.base
    right = [reference(base, biased_model.adapter(name), PROMPT, 12) for name in names]
    assert [answer_tokens(events) for events in answers] == right


def test_a_beginning_is_shared_within_the_merged_model_and_not_with_its_base(
    engine: BatchingEngine, biased_model: ServedModel
) -> None:
    speakers = ["base", "all biases", "all biases", "base"]
    prompts = [(*range(10, 58), last) for last in range(80, 84)]

    answers = [
        ask_all(engine, [a_request(biased_model, name, prompt=prompt)])[0]
        for name, prompt in zip(speakers, prompts, strict=True)
    ]

    assert [events[-1].cached_tokens for events in answers] == [0, 0, 48, 48]


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


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_rejected_by_name(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path, damage: str
) -> None:
    name, break_it, reason = DAMAGES[damage]
    bundle = AdapterFolder("adapter-x@v1", tmp_path / "bundle")
    shutil.copytree(biased_model.adapters[name].folder, bundle.folder)
    break_it(bundle.folder)
    biased_model.adapters["broken"] = bundle

    error = last_of(engine, a_request(biased_model, "broken"))

    assert isinstance(error, EngineError)
    assert (error.status, error.code, error.param) == (409, "adapter_rejected", "adapter")
    assert reason in error.message
    assert tokens_of(engine, a_request(biased_model)) == reference(biased_model.base, None, PROMPT, 12)


def test_one_that_is_rejected_leaves_the_loaded_base_where_it_is(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path
) -> None:
    bundle = AdapterFolder("adapter-x@v1", tmp_path / "bundle")
    shutil.copytree(biased_model.adapters["all biases"].folder, bundle.folder)
    DAMAGES["no bias"][1](bundle.folder)
    biased_model.adapters["broken"] = bundle
    tokens_of(engine, a_request(biased_model, "plain"))
    host = engine._model_cache.host

    last_of(engine, a_request(biased_model, "broken"))

    assert engine._model_cache.host is host is not None


def another_world(served_model: ServedModel, folder: Path, family: str, **config: Any) -> ServedModel:
    """A base of another family, and the adapter "odd" of it."""
    base = ModelFolder(family, build_family(family, folder / "base"))
    for path in served_model.base.folder.glob("tokenizer*"):
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
    served_model, names = another_world(biased_model, tmp_path, family, **config), ("odd", "base", "odd")

    answers = ask_all(engine, [a_request(served_model, name, prompt=(3, 4, 5)) for name in names])

    right = [reference(served_model.base, served_model.adapter(name), (3, 4, 5), 12) for name in names]
    assert [answer_tokens(events) for events in answers] == right
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
    shutil.copytree(biased_model.base.folder, tmp_path / "tied")
    config = json.loads((tmp_path / "tied" / "config.json").read_text())
    (tmp_path / "tied" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tensors = load_file(tmp_path / "tied" / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "tied" / "model.safetensors", metadata={"format": "pt"})
    base = ModelFolder("tied", tmp_path / "tied")
    adapter = AdapterFolder("adapter-tied@v1", biased_model.adapters[name].folder)
    served_model = ServedModel(base, base, base, {"tied": adapter})

    answer = tokens_of(engine, a_request(served_model, "tied"))

    assert answer == reference(base, adapter, PROMPT, 12) != reference(base, None, PROMPT, 12)
    assert engine.health().loaded_merged == adapter.name
    assert tokens_of(engine, a_request(served_model)) == reference(base, None, PROMPT, 12)


@pytest.mark.parametrize("name", ["all biases", "directions", "a head"])
def test_it_is_proved_by_the_way_in_which_it_answers(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path, name: str
) -> None:
    bundle = a_bundle(biased_model, name, tmp_path / "bundle")

    proof = proof_of(engine, an_order(bundle, biased_model.base.folder))

    assert proof.proved, proof
    assert proof.largest_difference is not None
    assert proof.largest_difference < 1e-4
    assert proof.base_gap is not None
    assert proof.base_gap < 1e-4
    assert proof.base_difference is not None
    assert proof.base_difference > 0.1


def test_a_bias_that_was_not_loaded_is_no_proof(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path
) -> None:
    bundle = a_bundle(biased_model, "all biases", tmp_path / "bundle")
    with_tensors(lambda t: {key: t[key] * (not key.endswith("v_proj.bias")) for key in t})(bundle)

    proof = proof_of(engine, an_order(bundle, biased_model.base.folder))

    assert not proof.proved
    assert proof.reason is not None
    assert "its log-probabilities are" in proof.reason


def test_adapters_of_a_quantised_base_are_beside_it_and_what_is_more_is_merged_into_its_values(
    engine: BatchingEngine, biased_model: ServedModel, tmp_path: Path
) -> None:
    wish = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    folder = biased_model.base.folder
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=wish).save_pretrained(tmp_path / "base")
    base = ModelFolder("quantised", tmp_path / "base")
    served_model, names = ServedModel(base, base, base, biased_model.adapters), ["plain", "base", "all biases", "plain"]

    answers = ask_all(engine, [a_request(served_model, name) for name in names])

    right = [reference(base, served_model.adapter(name), PROMPT, 12) for name in names]
    assert [answer_tokens(events) for events in answers] == right
    assert len({tuple(answer) for answer in right}) == 3
    assert engine.health().answers == "in_batches"
