"""Adapters of a base that was quantised on the way in: proved on the base as it is, or as the trainer made it."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from app.contracts.generation import AdapterRef, EngineError, GenerateOrder, Sampling
from app.contracts.order import BaseRef
from app.contracts.probe import PROBE, Probe, Proof
from app.contracts.variant import BaseVariant, variant_of
from tests.integration.engine.model_caches import build_tiny_adapter
from tests.integration.engine.probes import an_order, difference_of, probe_of, proof_of, reason_of
from tests.integration.engine.requests import PROMPT, tokens_of
from tests.integration.engine.test_engine_bundles import with_config, with_tensors
from tests.support.tiny_model import build_tiny_model
from worker.inference.engine import Engine, ModelFolder, TokenEvent, TokenRequest
from worker.inference.models.bases import Placement, load_base
from worker.inference.server.answering import find_responder, read_order
from worker.inference.server.sources import Sources

# bitsandbytes warns that it rounds for eight bits.
pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt")
ON_CPU = Placement("cpu", torch.float32)
KEPT = ["lm_head"]
NF4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, llm_int8_skip_modules=KEPT
)
FP4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")
INT8 = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT)
SILENT = 5
# Of the adapters: little enough that twice as much makes twice the change, as of a training.
STRENGTH = 0.05
# On the uneven base itself it is 0.8. Where a CPU multiplies bfloat16, bitsandbytes computes with that.
CLOSE = 0.01
VARIANT = BaseVariant(name="dequant-nf4", is_nested=True, kept=("lm_head",))


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that four bits change little."""
    return build_tiny_model(tmp_path_factory.mktemp("even") / "base")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One large weight in every block, so that four bits have nothing left for the others; what it is given is 0."""
    folder = build_tiny_model(tmp_path_factory.mktemp("uneven") / "base")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][:, SILENT] = 0
    for name, weights in tensors.items():
        if "_proj" in name:
            weights *= 6
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[SILENT] = 0
        elif "_proj" in name:
            weights[:, SILENT] = 20 * weights.abs().max()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def trained_on(base: Path, folder: Path, bits: int = 4) -> Path:
    """The bundle of an adapter, with what its trainer recorded of it on the quantised base."""
    return Path(shutil.copytree(_trained_on(base, bits), folder))


@cache
def _trained_on(base: Path, bits: int) -> Path:
    folder = base.with_name(f"adapter-{bits}")
    modules = ["q_proj", "v_proj", "up_proj"]
    build_tiny_adapter(folder, base, seed=1, strength=STRENGTH, r=4, target_modules=modules)
    probe = probe_of(base, folder, quantisation={4: NF4, 8: INT8}[bits])
    (folder / PROBE).write_text(probe.model_dump_json())
    return folder


def ref_of(bundle: Path, base: Path, proof: Proof) -> AdapterRef:
    """What the record of the adapter says once it is proved so."""
    return an_order(bundle, base).adapter.model_copy(update={"base_variant": proof.base_variant})


def answer_of(engine: Engine, base: Path, ref: AdapterRef | None) -> list[int]:
    order = GenerateOrder(
        request_id="r",
        base=BaseRef(source=str(base), is_local=True),
        adapter=ref,
        prompt_token_ids=list(PROMPT),
        sampling=Sampling(temperature=0, max_new_tokens=12, ignore_eos=True),
    )
    return tokens_of(engine, read_order(order, asyncio.run(find_responder(order, Sources()))))


def right_answer(base: Path, bundle: Path | None, quantisation: Any = None) -> list[int]:
    """On the values of the quantised base, which some CPUs do not compute with in float32 before they are unpacked."""
    how = {} if quantisation is None else {"quantization_config": quantisation}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **how)
    if quantisation is not None:
        model = model.dequantize(dtype=torch.float32)
    if bundle is not None:
        model = PeftModel.from_pretrained(model, bundle)
    ids = list(PROMPT)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("quantisation", [NF4, FP4, INT8], ids=["nf4", "fp4", "int8"])
def test_a_variant_has_the_values_of_the_quantised_base(even: Path, quantisation: Any) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(even, dtype=torch.float32, quantization_config=quantisation)
    variant = variant_of(theirs.config.quantization_config.to_dict())

    ours = load_base(ModelFolder("even", even, variant), ON_CPU)

    plain = load_base(ModelFolder("even", even), ON_CPU)
    theirs = theirs.dequantize(dtype=torch.float32).state_dict()
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(weights, theirs[name]) for name, weights in ours.state_dict().items())
    assert not torch.equal(ours.model.layers[0].mlp.up_proj.weight, plain.model.layers[0].mlp.up_proj.weight)
    assert torch.equal(ours.lm_head.weight, plain.lm_head.weight)


@pytest.mark.parametrize("bits", [4, 8])
def test_where_the_base_as_it_is_will_do_it_is_taken(engine: Engine, even: Path, tmp_path: Path, bits: int) -> None:
    bundle = trained_on(even, tmp_path / "bundle", bits)

    proof = proof_of(engine, an_order(bundle, even))

    assert (proof.proved, proof.base_variant) == (True, None), proof
    assert proof.strength == pytest.approx(1, abs=0.15)


def test_where_it_will_not_the_adapter_is_proved_and_answers_on_what_it_was_trained_on(
    engine: Engine, uneven: Path, tmp_path: Path
) -> None:
    bundle = trained_on(uneven, tmp_path / "bundle")

    proof = proof_of(engine, an_order(bundle, uneven))
    answers = [answer_of(engine, uneven, ref) for ref in (ref_of(bundle, uneven, proof), None)]

    assert (proof.proved, proof.base_variant) == (True, VARIANT), proof
    assert difference_of(proof) < CLOSE
    assert answers == [right_answer(uneven, bundle, NF4), right_answer(uneven, None)]
    assert answers[0] != right_answer(uneven, bundle)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "twice as strong": with_config(lora_alpha=16),
    "half as strong": with_config(lora_alpha=4),
    "scrambled": with_tensors(lambda t: {key: t[key].flip(0) if "lora_A" in key else t[key] for key in t}),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("base", ["even", "uneven"])
def test_another_adapter_is_proved_on_neither(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest, base: str, damage: str
) -> None:
    folder = request.getfixturevalue(base)
    bundle = trained_on(folder, tmp_path / "bundle")
    DAMAGES[damage](bundle)

    proof = proof_of(engine, an_order(bundle, folder))

    assert "; on dequant-nf4, its log-probabilities are" in reason_of(proof)
    assert proof.base_variant is None


@pytest.mark.parametrize("alpha", [4, 16])
def test_without_a_variant_to_try_the_strength_alone_decides(
    engine: Engine, even: Path, tmp_path: Path, alpha: int
) -> None:
    """As of a trainer that did not note how it quantised the base."""
    bundle = trained_on(even, tmp_path / "bundle")
    probe = Probe.model_validate_json((bundle / PROBE).read_bytes())
    (bundle / PROBE).write_text(probe.model_copy(update={"variant": None}).model_dump_json())
    with_config(lora_alpha=alpha)(bundle)

    proof = proof_of(engine, an_order(bundle, even))

    assert not proof.proved
    assert proof.strength is not None
    assert (proof.strength > 1) == (alpha > 8)


def test_a_base_that_is_quantised_in_its_files_has_no_variant(engine: Engine, uneven: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(uneven, quantization_config=NF4).save_pretrained(tmp_path / "base")
    bundle = trained_on(uneven, tmp_path / "bundle")

    right = proof_of(engine, an_order(bundle, tmp_path / "base"))
    with_config(lora_alpha=16)(bundle)
    wrong = proof_of(engine, an_order(bundle, tmp_path / "base"))

    assert (right.proved, right.base_variant) == (True, None), right
    assert (wrong.proved, wrong.base_variant) == (False, None)


class FilesOnly:
    """An engine that has a base in no other form than that of its files, as vLLM."""

    def __init__(self, engine: Engine) -> None:
        self.health, self.close = engine.health, engine.close
        self._engine = engine

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        if request.base.variant is not None:
            yield EngineError(status=422, code="unsupported_by_engine", message="not here", param="adapter")
            return
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                yield event


def test_an_engine_without_the_variant_keeps_to_what_it_found_on_the_base(
    engine: Engine, uneven: Path, tmp_path: Path
) -> None:
    proof = proof_of(FilesOnly(engine), an_order(trained_on(uneven, tmp_path / "bundle"), uneven))

    assert "; on " not in reason_of(proof)
    assert proof.base_variant is None


def test_what_is_no_quantisation_of_bitsandbytes_has_no_variant() -> None:
    others: list[dict[str, Any]] = [{"quant_method": "fp8"}, {}, json.loads('{"quant_method": "gptq", "bits": 4}')]

    assert [variant_of(one) for one in others] == [None, None, None]
