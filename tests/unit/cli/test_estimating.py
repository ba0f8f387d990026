"""What an estimate says, in lines for a person."""

from typing import Any

from app.cli.estimating import estimate_lines
from app.jobs.views.estimate_schemas import Estimate, LayoutView, MemoryParts, TrainingTokens, WorkerEstimate

NOTHING = MemoryParts(weights=0, trained=0, gradients=0, optimizer=0, fixed=0, activations=0, temporary=0)


def a_worker(**changes: Any) -> WorkerEstimate:
    usual = {
        "worker": "w@host", "device": "NVIDIA H200, 143771 MiB", "device_bytes": 1, "fits": True,
        "reason": "it is small", "layout": LayoutView(micro_batch_tokens=1, recomputation=False, bits=16),
        "memory_bytes": 1,
        "memory_with_margin_bytes": 1, "memory": NOTHING, "correction": 1.0, "step_seconds": 1.0, "seconds": 3700.4,
    }  # fmt: skip
    return WorkerEstimate(**{**usual, **changes})


def an_estimate(*workers: WorkerEstimate) -> Estimate:
    return Estimate(
        valid=True,
        error=None,
        tokens=TrainingTokens(rows=1000, longest_row=2048, mean_step=4400.0, steps=250, total=1_100_000),
        trained_parameters=24_313_856,
        adapter_bytes=97_255_424,
        checkpoint_bytes=146_643_000,
        least_memory_bytes=4 * 2**30,
        most_memory_bytes=24 * 2**30,
        workers=list(workers),
    )


def test_sizes_and_workers_have_a_line_each() -> None:
    odd = a_worker(worker="x\x1b", device="cpu (x86_64)", fits=None, seconds=None)

    assert list(estimate_lines(an_estimate(a_worker(), a_worker(fits=False), odd))) == [
        "250 steps of 4,400 tokens, 1,100,000 tokens in all; 1,000 rows of at most 2,048 tokens",
        "24,313,856 parameters are trained",
        "adapter 97.3 MB, each checkpoint 146.6 MB",
        "memory from 4.0 GiB with the smallest layout to 24.0 GiB with all activations kept",
        "w@host (NVIDIA H200, 143771 MiB): fits; steps take 1:01:40; it is small",
        "w@host (NVIDIA H200, 143771 MiB): does not fit; steps take 1:01:40; it is small",
        "x\\x1b (cpu (x86_64)): may fit; steps take an unknown time; it is small",
    ]


def test_without_a_worker_that_is_said() -> None:
    assert list(estimate_lines(an_estimate()))[-1] == "no training worker is known"
