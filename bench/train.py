"""How fast jobs train, beside the page's script and stock TRL and PEFT, on one card. Prints one JSON object.

usage: python -m bench.train WORK_DIR [--scenario chat|full8k|full32k|tiny] [--rivals page,stock,…]
                             [--model DIR] [--steps N] [--other-steps N] [--step-rows N] [--rounds N] [--profile]
                             [--gpus N,…] [--budget SECONDS]

Every rival trains the same rows, in a process of its own, and alone: in each round all of them import their libraries
at once, and then take turns. The second round goes the other way round. They share one cache of compiled code, which
the first of them fills. Those that wait hold a context on the card, and nothing else. Without `--model` a Llama of
random weights is made, of 3.2 billion parameters unless the scenario is tiny. `bench/training/rivals.py` says what the
rivals are.

Tokens a second are medians over steps after the first third, without padding; imports, loading and the first step are
told beside them. With `--other-steps` all rivals but `ours-auto` take fewer steps: in a job of a usual length most of
the graphs are recorded early, while the others, which have none, are as fast after ten steps. `share_of_limit` compares
with the arithmetic of `bench/training/limits.py` at the speed of one matrix product measured here. With `--profile` the
last step of each run is profiled, and `bound` says what holds it up. With `--gpus 1,2` our own jobs run with one and
with two GPUs, and what two of them gain and how far their losses differ is told. On a CPU two processes share it.
What does not fit into the budget is not run, and is listed. A line about each run goes to stderr when it ends.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.contracts.training_args import TrainingArgs
from bench.training.contracts import RANK, Rival, RunOrder, RunResult, Workload
from bench.training.limits import LlamaShape, flops_per_token
from bench.training.process import RivalProcess, run_environment
from bench.training.rivals import DEFAULT_RIVALS, RIVALS
from bench.training.scenarios import SCENARIOS, draw_rows, write_rows
from bench.training.summary import rate, summarise

MODEL = "model"
# The first step warms up, the last one may be profiled, and some have to remain.
LEAST_STEPS = 4
MOST_GPUS = 8


def main() -> None:
    options = read_options()
    deadline = time.monotonic() + options.budget
    work: Path = options.work.resolve()
    scenario = SCENARIOS[options.scenario].with_step_rows(options.step_rows)
    device = prepare(work, options.model, scenario.shape)
    model = options.model.resolve() if options.model else work / MODEL
    shape = LlamaShape.read(model)
    steps = options.steps or scenario.steps
    rows = draw_rows(scenario, steps, shape.vocabulary)
    workload = Workload(
        model=model,
        rows=write_rows(rows, work / "data"),
        max_tokens=scenario.max_tokens,
        micro_batch=scenario.micro_batch,
        accumulation=scenario.accumulation,
        steps=steps,
    )
    of_others = workload.model_copy(update={"steps": options.other_steps or steps})
    orders = [
        make_order(
            RIVALS[name],
            workload if RIVALS[name].layout == "auto" else of_others,
            work,
            device,
            gpus,
            has_profile=options.profile,
        )
        for name in options.rivals
        for gpus in (options.gpus if RIVALS[name].runner == "own_job" else [1])
    ]
    runs, not_run = run_rounds(orders, options.rounds, deadline)
    lengths = [len(row) for row in rows]
    flops = flops_per_token(shape, RANK, lengths)
    told = {
        **device,
        "scenario": options.scenario,
        "rows": {"count": len(rows), "mean_tokens": round(sum(lengths) / len(rows)), "longest": max(lengths)},
        "step_rows": scenario.step_rows,
        "steps": steps,
        "limit_tokens_per_second": round(device["tflops"] * 1e12 / flops, 1),
        "rivals": summarise(orders, runs, flops, device["tflops"]),
        "not_run": not_run,
    }
    print(json.dumps(told))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a folder that does not exist, or is empty")
    parser.add_argument("--scenario", choices=SCENARIOS, default="chat")
    parser.add_argument("--rivals", type=names_of_rivals, default=DEFAULT_RIVALS, help=", ".join(RIVALS))
    parser.add_argument("--model", type=Path, help="a Llama with its tokenizer")
    parser.add_argument("--steps", type=int, help="steps of a run; the default depends on the scenario")
    parser.add_argument("--other-steps", type=int, help="steps of all rivals but ours-auto")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--step-rows", type=int, help="rows of an optimizer step; the default is the scenario's")
    parser.add_argument("--gpus", type=counts, default=[1], help="for our own jobs: one or several counts")
    parser.add_argument("--budget", type=float, default=540, help="seconds after which no other run begins")
    options = parser.parse_args()
    for steps in (options.steps, options.other_steps):
        if steps is not None and steps < LEAST_STEPS:
            parser.error(f"found {steps} steps, expected at least {LEAST_STEPS}")
    return options


def counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def names_of_rivals(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - RIVALS.keys())
    if unknown:
        raise argparse.ArgumentTypeError(f"found {', '.join(unknown)}, expected some of {', '.join(RIVALS)}")
    return names


def prepare(work: Path, model: Path | None, shape: str) -> dict[str, Any]:
    """Make the model, unless there is one, and return what the device is and does.

    A child does both, so that this process holds no memory of the card.
    """
    work.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "bench.training.base", str(work / MODEL), "none" if model else shape]
    env = run_environment(work / "cache", visible_devices()[0])
    output = subprocess.run(argv, env=env, check=True, stdout=subprocess.PIPE).stdout
    told: dict[str, Any] = json.loads(output.splitlines()[-1])  # libraries may print before
    return told


def make_order(
    rival: Rival, workload: Workload, work: Path, device: dict[str, Any], gpus: int, *, has_profile: bool
) -> RunOrder:
    """A layout is requested only if specs have that field.

    On a CPU every rival trains in 16 bits, and none with TRL's fused head, which is a kernel for GPUs.
    """
    if "layout" not in TrainingArgs.model_fields:
        rival = rival.model_copy(update={"layout": None})
    if not device["is_gpu"]:
        rival = rival.model_copy(update={"bits": 16})
    if not device["is_gpu"] and rival.runner == "stock_script":
        rival = rival.model_copy(update={"has_fused_head": False})
    order = RunOrder(
        rival=rival,
        workload=workload,
        folder=work / "runs",
        cache=work / "cache",
        has_profile=has_profile,
        gpus=gpus,
        devices=visible_devices()[:gpus] if device["is_gpu"] and gpus > 1 else (),
    )
    return order.model_copy(update={"folder": order.folder / order.name})


def run_rounds(
    orders: Sequence[RunOrder], rounds: int, deadline: float
) -> tuple[dict[str, list[RunResult]], list[str]]:
    """The results of each rival, and the runs for which no time was left."""
    results: dict[str, list[RunResult]] = {order.name: [] for order in orders}
    not_run = []
    for number in range(rounds):
        turns = orders if number % 2 == 0 else orders[::-1]
        with ExitStack() as stack:
            of_round = [order.model_copy(update={"folder": order.folder / str(number)}) for order in turns]
            processes = [stack.enter_context(RivalProcess(order, visible_devices()[0])) for order in of_round]
            for process in processes:
                process.wait_until_imported(deadline - time.monotonic())
            for process in processes:
                name = process.order.name
                if time.monotonic() >= deadline:
                    not_run.append(f"{name} of round {number + 1}")
                    continue
                results[name].append(process.train(deadline - time.monotonic()))
                print(progress(name, number + 1, results[name][-1], process.order), file=sys.stderr, flush=True)
    return results, not_run


def visible_devices() -> tuple[str, ...]:
    """The GPUs that this process may use, as they are named in CUDA_VISIBLE_DEVICES."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(allowed.split(",") if allowed else map(str, range(MOST_GPUS)))


def progress(name: str, number: int, result: RunResult, order: RunOrder) -> str:
    if result.failed is not None:
        return f"{name}, round {number}: failed: {result.failed}"
    speed = rate([result], has_profile=order.has_profile)
    return f"{name}, round {number}: {speed:.0f} tokens/s, first step after {result.first_step_seconds:.1f} s"


if __name__ == "__main__":
    main()
