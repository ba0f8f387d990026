"""The arithmetic of bench.train: its limit, its rows, and what it makes of the runs."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from bench.training.contracts import MeasuredStep, RunOrder, RunResult, StepProfile, Workload
from bench.training.limits import LlamaShape, flops_per_token
from bench.training.rivals import RIVALS
from bench.training.scenarios import SCENARIOS, draw_rows, write_rows
from bench.training.summary import bound, losses, steady, summarise
from tests.support.tiny_model import build_tiny_model
from worker.checking.rows import SCHEMA, digest_of

LLAMA_3B = LlamaShape(
    hidden=3072, intermediate=8192, layers=28, heads=24, key_heads=8, head_size=128, vocabulary=128_256
)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def an_order(name: str, *, has_profile: bool = False, gpus: int = 1) -> RunOrder:
    nowhere = Path("/nowhere")
    workload = Workload(model=nowhere, rows=nowhere, max_tokens=8, micro_batch=2, accumulation=4, steps=7)
    return RunOrder(
        rival=RIVALS[name], workload=workload, folder=nowhere, cache=nowhere, has_profile=has_profile, gpus=gpus
    )


def a_run(rates: list[int], **others: Any) -> RunResult:
    """A run whose steps have as many tokens and take one second each. The loss falls from 4."""
    steps = [MeasuredStep(seconds=1, tokens=rate, loss=3 - number / 10) for number, rate in enumerate(rates)]
    return RunResult(first_step_tokens=100, first_loss=4, steps=steps, **others)


def test_the_limit_counts_the_parameters_that_a_model_and_its_lora_have(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_tiny_model(tmp_path))
    shape = LlamaShape.read(tmp_path)
    linear = [module.weight.numel() for module in model.modules() if type(module).__name__ == "Linear"]

    adapted = get_peft_model(model, LoraConfig(r=16, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))

    assert shape.frozen_parameters == sum(linear)
    assert shape.lora_parameters(16) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize(("length", "rate"), [(512, 59_600), (8192, 45_900), (32_768, 26_400)])
def test_the_limit_of_a_3b_llama_falls_with_the_length_of_its_rows(length: int, rate: int) -> None:
    assert 790e12 / flops_per_token(LLAMA_3B, 16, [length]) == pytest.approx(rate, rel=0.002)


def test_a_long_row_counts_for_its_tokens_and_its_attention() -> None:
    plain, attention = flops_per_token(LLAMA_3B, 16, [1]), 6 * 28 * 24 * 128

    mixed = flops_per_token(LLAMA_3B, 16, [1, 3])

    assert mixed == pytest.approx(plain - attention + attention * (1 + 9) / 4)


def test_every_measurement_has_the_same_rows() -> None:
    chats = draw_rows(SCENARIOS["chat"], 100, 1000)
    lengths = [len(row) for row in chats]

    assert chats == draw_rows(SCENARIOS["chat"], 100, 1000)
    assert len(chats) == 800
    assert 500 < sum(lengths) / len(lengths) < 600
    assert max(lengths) <= 2048
    assert max(map(max, chats)) < 1000
    assert {len(row) for row in draw_rows(SCENARIOS["full8k"], 2, 1000)} == {8192}


def test_rows_are_written_as_the_checker_writes_them(tmp_path: Path) -> None:
    path = write_rows([[5, 6, 7], [8]], tmp_path / "data")

    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()

    assert table.schema == SCHEMA
    assert table.to_pylist()[0] == {
        "record": 1, "input_ids": [5, 6, 7], "labels": [5, 6, 7], "cut": 0, "supervised": 3,
        "digest": digest_of([5, 6, 7]),
    }  # fmt: skip


@pytest.mark.parametrize(("has_profile", "counted"), [(False, [30, 40, 50, 60]), (True, [20, 30, 40, 50])])
def test_neither_the_first_third_of_the_steps_nor_a_profiled_one_counts(has_profile: bool, counted: list[int]) -> None:
    run = a_run([10, 20, 30, 40, 50, 60])

    assert [step.tokens for step in steady(run, has_profile=has_profile)] == counted


def test_a_rival_is_compared_with_the_page_the_fastest_stock_and_the_limit() -> None:
    names = ("page", "stock", "stock-liger", "ours-auto-16")
    runs = {name: [a_run([rate] * 6)] for name, rate in zip(names, (200, 100, 150, 900), strict=True)}

    told = summarise([an_order(name) for name in names], runs, flops_per_token=1e9, tflops=2)["ours-auto-16"]

    assert (told["tokens_per_second"], told["times_page"], told["times_fastest_stock"]) == (900, 4.5, 6)
    assert told["share_of_limit"] == 0.45


def test_rounds_count_together_and_a_failed_one_is_reported() -> None:
    runs = {"page": [a_run([100] * 6), RunResult(failed="exit code 1: out of memory"), a_run([300] * 9)]}

    told = summarise([an_order("page")], runs, flops_per_token=1e9, tflops=2)["page"]

    assert told["tokens_per_second"] == 300
    assert told["failed"] == ["exit code 1: out of memory"]


def test_a_rival_that_only_failed_has_no_figures() -> None:
    told = summarise([an_order("stock")], {"stock": [RunResult(failed="exit code 1")]}, 1e9, 2)

    assert told["stock"]["failed"] == ["exit code 1"]
    assert "tokens_per_second" not in told["stock"]


def test_losses_are_compared_only_if_every_step_had_the_rows_of_the_page() -> None:
    page, other = a_run([10, 10]), a_run([10, 11])
    close = page.model_copy(update={"first_loss": 4.04})

    assert losses(close, page)["worst_loss_difference"] == 0.01
    assert losses(other, page)["has_rows_of_page"] is False
    assert "worst_loss_difference" not in losses(other, page)


@pytest.mark.parametrize(
    ("is_gpu", "busy_seconds", "what"),
    [
        (True, 0.4, "the host: the GPU works 40% of the time"),
        (True, 0.9, "the GPU: gemm takes 33% of its time"),
        (False, 0.9, "the CPU: gemm takes 33% of its time"),
    ],
)
def test_a_training_is_bound_by_the_host_if_its_gpu_waits(is_gpu: bool, busy_seconds: float, what: str) -> None:
    kernels = [("gemm", busy_seconds * 1000 / 3, 7)]
    profile = StepProfile(is_gpu=is_gpu, busy_seconds=busy_seconds, kernel_count=99, top_kernels=kernels)

    assert bound(a_run([1000] * 3, profile=profile), tokens_per_second=1000)["bound"] == what


def test_the_shape_of_a_model_without_key_heads_is_that_of_its_heads(tmp_path: Path) -> None:
    config = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))

    shape = LlamaShape.read(tmp_path)

    assert (shape.key_heads, shape.head_size) == (4, 16)


def test_two_gpus_are_compared_with_one() -> None:
    orders = [an_order("ours-auto-16", gpus=gpus) for gpus in (1, 2)]
    runs = {"ours-auto-16": [a_run([100] * 6)], "ours-auto-16-x2": [a_run([190] * 6)]}

    found = summarise(orders, runs, flops_per_token=1e9, tflops=1)

    assert "times_one_gpu" not in found["ours-auto-16"]
    both = found["ours-auto-16-x2"]
    assert (both["times_one_gpu"], both["worst_loss_difference_to_one_gpu"], both["share_of_limit"]) == (1.9, 0, 0.095)


def test_a_scenario_may_have_more_rows_a_step() -> None:
    assert SCENARIOS["chat"].with_step_rows(32).step_rows == 32
    assert SCENARIOS["chat"].with_step_rows(None) == SCENARIOS["chat"]
