"""The engine on a GPU: packs of fixed shapes, graphs and kernels, held to what the tests of batches ask on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

from tests.integration.engine.conftest import make_batching  # noqa: E402, F401
from tests.integration.engine.test_batching import *  # noqa: E402, F403
from tests.integration.engine.test_batching_failures import (  # noqa: E402, F401
    test_a_client_who_leaves_frees_everything_and_disturbs_nobody,
    test_a_forward_that_fails_fails_only_the_request_at_fault,
    test_a_request_that_fails_fails_alone,
    test_adapters_that_no_batch_can_hold_are_answered_beside_those_that_one_can,
    test_every_kind_of_model_answers_as_it_does_alone,
    test_requests_of_two_bases_are_answered_in_turn,
)


@pytest.fixture(scope="module")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.integration.engine.model_caches import build_served_model

    return build_served_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def placement() -> Any:
    """Where the engines of these tests are."""
    from worker.inference.models.bases import Placement

    return Placement("cuda:0", torch.float32)


def test_a_quantised_base_answers_in_graphs_as_it_does_alone(
    make_batching: Callable[..., Any],  # noqa: F811  the fixture
    served_model: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from tests.integration.engine.many_requests import answer_tokens, ask_all
    from tests.integration.engine.requests import a_request
    from worker.inference.engine import ModelFolder

    wish = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    AutoModelForCausalLM.from_pretrained(served_model.base.folder, quantization_config=wish).save_pretrained(
        tmp_path / "base"
    )
    base = ModelFolder("quantised", tmp_path / "base")
    requests = [a_request(served_model, base=base, prompt=tuple(range(3, 5 + count))) for count in (1, 20, 40)]
    engine = make_batching()

    alone = [answer_tokens(ask_all(engine, [request])[0]) for request in requests]
    together = [answer_tokens(events) for events in ask_all(engine, requests)]

    assert together == alone
    assert engine.health().answers == "in_batches"
    assert "cannot be recorded" not in caplog.text


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(24, 8, 128), (4, 4, 24), (24, 2, 64), (32, 1, 16)])
def test_the_kernel_gives_the_attention_of_plain_torch(
    heads: int, key_heads: int, size: int, softcap: float | None, window: int | None
) -> None:
    from tests.integration.engine.attentions import both_attentions
    from worker.inference.batching.plan import Scoring

    tokens = [(0, 1), (700, 1), (3, 1), (0, 33), (640, 50), (70, 2)]

    found, wanted = both_attentions(tokens, heads, key_heads, size, Scoring(0.2, softcap, window), device="cuda:0")

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
