"""What is trained on a GPU, in 4 bits or more, is proved on the base in 16 bits; what is another adapter is not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.contracts.probe import PROBE, Probe
from tests.gpu.test_training import train

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CLOSE = 0.3


@pytest.mark.parametrize(
    ("groups", "is_quantised"),
    [
        ({}, True),
        ({"model": {"load_in_8bit": True}}, True),
        ({"model": {"load_in_4bit": False}}, False),
        ({"model": {"load_in_4bit": False, "dtype": "float32"}}, False),
        ({"model": {"load_in_4bit": False}, "lora": {"use_rslora": True, "lora_dropout": 0.1}}, False),
    ],
    ids=["page", "8bit", "16bit", "32bit", "rslora-dropout"],
)
def test_an_adapter_that_was_trained_here_is_proved_on_the_16_bit_base(
    engine: Any,
    base: Path,
    tmp_path: Path,
    groups: dict[str, Any],
    is_quantised: bool,
    record_property: Callable[[str, object], None],
) -> None:
    from tests.integration.engine.probes import an_order, proof_of

    run = train(base, tmp_path / "run", **groups)
    assert run.failure is None, run.log[-3000:]
    probe = Probe.model_validate_json((run.adapter / PROBE).read_bytes())

    proof = proof_of(engine, an_order(run.adapter, base))

    record_property("proof", proof.model_dump_json())
    assert probe.quantised is is_quantised
    assert proof.proved, proof
    assert proof.difference is not None
    assert proof.difference <= CLOSE


@pytest.mark.parametrize("groups", [{}, {"model": {"load_in_4bit": False}}], ids=["page", "16bit"])
def test_a_scrambled_adapter_is_not_proved_whatever_the_bits(
    engine: Any, base: Path, tmp_path: Path, groups: dict[str, Any]
) -> None:
    from tests.integration.engine.probes import an_order, proof_of
    from tests.integration.engine.test_proving import WRONG

    run = train(base, tmp_path / "run", **groups)
    shutil.copytree(run.adapter, tmp_path / "scrambled")
    WRONG["scrambled"][0](tmp_path / "scrambled")

    assert not proof_of(engine, an_order(tmp_path / "scrambled", base)).proved


def test_a_model_whose_weights_were_all_trained_is_proved(engine: Any, base: Path, tmp_path: Path) -> None:
    from tests.integration.engine.probes import an_order, proof_of

    run = train(base, tmp_path / "run", model={"full_finetuning": True}, training={"learning_rate": 1e-3})
    assert run.failure is None, run.log[-3000:]

    proof = proof_of(engine, an_order(run.adapter, base, kind="full"))

    assert proof.proved, proof
