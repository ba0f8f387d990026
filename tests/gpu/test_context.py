"""More positions than the base knows: what is trained with scaled RoPE is what the engine serves, on a GPU.

Unsloth would scale by itself there, as soon as `max_seq_length` is above the model's context. Run it with
`python -m pytest -q -m gpu tests/gpu/test_context.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from app.contracts.events import AdapterSaved
from app.contracts.probe import Proof
from tests.gpu.test_training import Run, train
from tests.support.tiny_model import build_tiny_model

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
OWN, SCALED = 64, 256


def short(folder: Path, family: str) -> Path:
    """Its attention looks at single tokens: a random model's looks at all alike, wherever they stand."""
    base = build_tiny_model(folder, family=family)
    tensors = load_file(base / "model.safetensors")
    sharper = {name: tensors[name] * 8 for name in tensors if name.endswith(("q_proj.weight", "k_proj.weight"))}
    save_file({**tensors, **sharper}, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": OWN}))
    return base


def proofs(engine: Any, run: Run, base: Path, *scaled_to: int | None) -> list[Proof]:
    from tests.integration.engine.probes import an_order, proof_of

    kind = next(event.adapter_kind for event in run.events if isinstance(event, AdapterSaved))
    order = an_order(run.adapter, base, kind=kind)
    orders = [order.model_copy(update={"base": order.base.model_copy(update={"scaled_to": one})}) for one in scaled_to]
    return [proof_of(engine, one) for one in orders]


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral"])
@pytest.mark.parametrize("bits", [{"load_in_4bit": False}, {}], ids=["16bit", "4bit"])
def test_what_is_trained_on_scaled_positions_is_proved_on_them(
    engine: Any, tmp_path: Path, family: str, bits: dict[str, Any]
) -> None:
    base = short(tmp_path / "base", family)

    run = train(base, tmp_path / "run", scaled_to=SCALED, model={"max_seq_length": SCALED, **bits})

    assert run.failure is None, run.log[-3000:]
    scaled, plain = proofs(engine, run, base, SCALED, None)
    assert scaled.proved, scaled
    assert scaled.base_gap is not None
    assert plain.base_gap is not None
    assert 2 * scaled.base_gap < plain.base_gap


def test_a_model_that_was_trained_whole_keeps_its_scaled_positions(engine: Any, tmp_path: Path) -> None:
    base = short(tmp_path / "base", "Llama")

    run = train(
        base,
        tmp_path / "run",
        scaled_to=SCALED,
        model={"max_seq_length": SCALED, "full_finetuning": True},
        training={"learning_rate": 1e-3},
    )
    config = json.loads((run.adapter / "config.json").read_text())

    assert run.failure is None, run.log[-3000:]
    assert (config["rope_parameters"]["rope_type"], config["max_position_embeddings"]) == ("linear", SCALED)
    assert proofs(engine, run, base, None)[0].proved


def test_rows_within_the_context_are_trained_on_the_models_own_positions(engine: Any, tmp_path: Path) -> None:
    """The check has lowered `max_seq_length` to the context, so that Unsloth scales nothing."""
    base = short(tmp_path / "base", "Llama")

    run = train(base, tmp_path / "run", model={"max_seq_length": OWN, "load_in_4bit": False})

    assert run.failure is None, run.log[-3000:]
    assert proofs(engine, run, base, None)[0].proved
