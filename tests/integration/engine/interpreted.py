"""Packs of fixed shapes and the kernels of a GPU, here in Triton's interpreter, against plain torch and plain PEFT.

Triton must be told before it is imported: `test_packs.py` runs this file in a process where it was.
"""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tests.integration.engine.attentions import both_attentions
from tests.integration.engine.many_requests import answer_tokens, ask_all
from tests.integration.engine.model_caches import ServedModel, expected
from tests.integration.engine.requests import a_request
from tests.integration.engine.test_batching import plain_model
from worker.inference.batching import support
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.batching.lora import MaskedProducts
from worker.inference.batching.packed.lora_kernel import RANKS, BlockProducts
from worker.inference.batching.packed.packed_host import PackedRunner
from worker.inference.batching.packed.paging import QueryBlocks
from worker.inference.batching.packed.rotary_kernel import rotate
from worker.inference.batching.plan import Kernels, Scoring
from worker.inference.models.bases import Placement

__all__ = ["plain_model"]
KERNELS = Kernels(QueryBlocks, BlockProducts, RANKS, rotate)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchingEngine]:
    monkeypatch.setattr(support, "kernels_for", lambda device: KERNELS)
    limits = BatchLimits(answers=4, adapters=2, chunk_tokens=20)
    engine = BatchingEngine(Placement("cpu", torch.float32), places=50, limits=limits)
    yield engine
    free, total = engine.count_blocks()
    engine.close()
    assert engine.join(60)
    assert free == total > 0


def test_a_base_and_adapters_in_packs_answer_as_each_does_alone(
    engine: BatchingEngine, plain_model: ServedModel
) -> None:
    names = ("base", "all layers", "ranks by layer")
    requests = [
        a_request(plain_model, name, prompt=tuple(range(3, 3 + tokens)), max_new_tokens=4)
        for lengths in ((30, 1, 17), (2, 16, 5))
        for name, tokens in zip(names, lengths, strict=True)
    ]

    with patch.object(PackedRunner, "step", autospec=True, side_effect=PackedRunner.step) as step:
        answers = ask_all(engine, requests)

    assert step.called
    assert [answer_tokens(events) for events in answers] == [expected(request) for request in requests]


@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "scoring"),
    [
        (6, 2, 32, Scoring(0.2)),
        (6, 2, 32, Scoring(0.2, softcap=5.0)),
        (6, 2, 32, Scoring(0.3, window=20)),
        (4, 4, 24, Scoring(0.2)),
        (24, 2, 16, Scoring(0.2)),
        (32, 1, 16, Scoring(0.3, softcap=2.0, window=40)),
    ],
)
def test_the_attention_kernel_gives_what_plain_torch_gives(
    heads: int, key_heads: int, size: int, scoring: Scoring
) -> None:
    asked_tokens = [(0, 1), (100, 1), (3, 1), (0, 33), (70, 2)]

    found, wanted = both_attentions(asked_tokens, heads, key_heads, size, scoring)

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [16, 32])
def test_the_adapter_kernel_gives_what_the_mask_gives(rank: int) -> None:
    """Rows: three of slot 2, one of the base, two of slot 1; places of nobody stand behind them."""
    torch.manual_seed(0)
    slots, size, out, layers = 3, 600, 200, 2
    hidden, output = torch.randn(8, size), torch.randn(8, out)
    downs, ups = torch.randn(slots, layers, rank, size), torch.randn(slots, rank, out)
    owners = torch.tensor([2, 2, 2, 0, 1, 1, 0, 0])
    blocks = torch.tensor([[0, 3, 2], [4, 2, 1], [0, 0, 0]]).t().contiguous()
    results: list[Any] = []

    for products in (BlockProducts(blocks), MaskedProducts(owners, 2, torch.float32)):
        results.append(output.clone())
        products.up(products.down(hidden, downs), 1, ups, results[-1])

    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-3)
    assert torch.equal(results[0][owners == 0], output[owners == 0])


@pytest.mark.parametrize(("heads", "key_heads", "size"), [(6, 2, 32), (4, 4, 24)])
def test_the_kernel_of_positions_gives_what_llama_gives(heads: int, key_heads: int, size: int) -> None:
    torch.manual_seed(0)
    query, key = (torch.randn(1, 5, count, size).transpose(1, 2) for count in (heads, key_heads))
    cosine, sine = torch.randn(2, 1, 5, size)

    for found, wanted in zip(
        rotate(query, key, cosine, sine), apply_rotary_pos_emb(query, key, cosine, sine), strict=True
    ):
        torch.testing.assert_close(found, wanted)
