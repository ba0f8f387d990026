"""The kernels of a GPU run here too, in Triton's interpreter; see interpreted.py for what is asked of them."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.forking import Forked, start_forker
from worker.inference.batching.packed.graphs import Graphs
from worker.inference.batching.packed.packs import Shape

ANSWERS, CHUNK_TOKENS, SLOTS = 20, 160, 8


def some_work(slot: int, count: int, computed: int, behind: int) -> Any:
    """`count` tokens of a sequence that has computed some, and knows some `behind` these."""
    tokens = list(range(computed + count + behind))
    sequence = SimpleNamespace(tokens=tokens, computed=computed, row=slot + 1, slot=slot)
    return SimpleNamespace(sequence=sequence, count=count, gives_token=behind == 0)


ANY_WORK = st.builds(some_work, *(st.integers(0, SLOTS), st.integers(1, 8), st.integers(0, 40), st.integers(0, 2)))


@given(st.lists(ANY_WORK))
@example([some_work(slot, count, 0, 0) for count in (1, 2) for slot in range(1, SLOTS + 1)])
def test_any_work_fits_into_one_of_the_shapes_with_all_its_tokens(work: list[Any]) -> None:
    work = sorted(work[:ANSWERS], key=lambda one: (one.count > 1, one.sequence.slot))
    if not work:
        return
    shape = Shape.of(work, ANSWERS, SLOTS)

    (tokens, positions, _, slots), (readers,), singles, prompts, owned = shape.parts(shape.fill(work))

    asked = sum(one.count for one in work)
    assert shape in Shape.all_of(ANSWERS, CHUNK_TOKENS, SLOTS)
    assert tokens[:asked].tolist() == positions[:asked].tolist()
    assert (singles[1].sum() + prompts[1].sum()).item() == asked
    assert [slots[first : first + count].tolist() for first, count, slot in owned.t().tolist() if count] == [
        [slot] * count for _, count, slot in owned.t().tolist() if count
    ]
    assert owned[1].sum() == sum(one.count for one in work if one.sequence.slot)
    assert (readers > 0).sum() <= sum(one.gives_token for one in work)


def test_too_little_memory_in_an_idle_moment_costs_nothing_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def record(_: Graphs, key: object, __: Any) -> bool:
        tried.append(key)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Graphs, "_record", record)
    graphs = Graphs(lambda key, inputs: None, torch.device("cuda"))

    assert [graphs.prepare(["shape"], lambda key: None, 0) for _ in range(2)] == [False, False]
    assert tried == ["shape"]


@pytest.mark.parametrize(
    ("chosen", "count"),
    [("", 11), ("test_the_adapter_kernel or test_the_kernel_of_positions", 4)],
    ids=["all", "adapters and positions"],
)
def test_packs_and_kernels_give_the_answers_of_plain_torch(tmp_path: Path, chosen: str, count: int) -> None:
    pytest.importorskip("triton")
    tests = Path(__file__).with_name("interpreted.py")
    options = ["-q", "--assert=plain", "-p", "no:cacheprovider", "-k", chosen, f"--basetemp={tmp_path / 'own'}"]
    output, environment = tmp_path / "output.log", {**os.environ, "TRITON_INTERPRET": "1"}

    code = Forked(start_forker(), "pytest", [*options, str(tests)], environment, output).wait(300)

    assert code == 0, output.read_text()[-5000:]
    assert f"{count} passed" in output.read_text()
