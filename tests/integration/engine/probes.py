"""Bundles with the probe of a trainer, and the proofs that an engine gives of them."""

import asyncio
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.contracts.generation import AdapterRef
from app.contracts.order import BaseRef
from app.contracts.probe import PROBE, Probe, Proof, ProofOrder
from app.contracts.rows import INPUT_IDS, LABELS
from tests.integration.engine.model_caches import ServedModel
from tests.support.prepared_rows import a_training
from tests.support.specs import a_spec
from worker.hashing import bundle_version
from worker.inference.engine import Engine
from worker.inference.proving.proof import prove
from worker.inference.server.sources import Sources
from worker.training.biases import base_biases
from worker.training.probe import take_probe

RESOLVED = {
    "model.dtype": "float32",
    "model.load_in_4bit": False,
    "model.load_in_8bit": False,
    "model.max_seq_length": 128,
    "training.fp16": False,
    "training.bf16": False,
}


def probe_of(
    base: Path,
    adapter: Path | None,
    *,
    dtype: torch.dtype = torch.float32,
    quantisation: Any = None,
    knows_weights: bool = False,
) -> Probe:
    """What a trainer records of PEFT's own model of an adapter, or of a whole model.

    Most tests are of what log-probabilities alone tell, as in a probe of an older version: `knows_weights`.
    """
    how = {} if quantisation is None else {"quantization_config": quantisation}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **how)
    biases = base_biases(model)
    model = PeftModel.from_pretrained(model, adapter) if adapter is not None else model
    source = BaseRef(source=str(base), is_local=True)
    order = a_training(base, a_spec(), source, train_rows=base, tokenizer=adapter or base)
    row = AutoTokenizer.from_pretrained(base)("The quick brown fox jumps over the lazy dog")["input_ids"]
    name = str(dtype).removeprefix("torch.")
    bits = {f"model.load_in_{bits}bit": getattr(quantisation, f"load_in_{bits}bit", False) for bits in (4, 8)}
    resolved = {**RESOLVED, "model.dtype": name, **bits}
    probe = take_probe(model, order, Dataset.from_dict({INPUT_IDS: [row], LABELS: [row]}), resolved, biases)
    return probe if knows_weights else _without_weights(probe)


def a_bundle(served_model: ServedModel, name: str, folder: Path, *, knows_weights: bool = False) -> Path:
    """A copy of an adapter, with its probe."""
    adapter = served_model.adapters[name].folder
    shutil.copytree(adapter, folder)
    probe = _probe_of_adapter(served_model.base.folder, adapter)
    (folder / PROBE).write_text((probe if knows_weights else _without_weights(probe)).model_dump_json())
    return folder


@cache
def _probe_of_adapter(base: Path, adapter: Path) -> Probe:
    return probe_of(base, adapter, knows_weights=True)


def _without_weights(probe: Probe) -> Probe:
    return probe.model_copy(update={"weights": None, "fit": None})


def an_order(bundle: Path, base: Path, *, kind: str = "lora") -> ProofOrder:
    """Its version is the hash of its files, as that of a real adapter is: an engine keeps adapters by their names."""
    version = bundle_version(bundle)
    ref = AdapterRef.model_validate(
        {"adapter_id": f"adapter-{bundle.name}", "version": version, "path": str(bundle), "kind": kind}
    )
    return ProofOrder(base=BaseRef(source=str(base), is_local=True), adapter=ref)


def proof_of(engine: Engine, order: ProofOrder) -> Proof:
    return asyncio.run(prove(order, engine, Sources()))


def reason_of(proof: Proof) -> str:
    """Why the engine has not proved the adapter."""
    assert not proof.proved
    assert proof.reason is not None
    return proof.reason


def difference_of(proof: Proof) -> float:
    """The largest difference of the log-probabilities of an adapter that is proved."""
    assert proof.proved, proof
    assert proof.largest_difference is not None
    return proof.largest_difference
