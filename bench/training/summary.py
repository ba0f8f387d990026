"""Turns the runs of a measurement into the figures that it prints."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from bench.training.contracts import MeasuredStep, RunOrder, RunResult
from bench.training.rivals import PAGE

GIB = 2**30
# Of the steps of a run, the first third warms up: kernels are compiled for more shapes, and memory is reserved.
WARM_UP_SHARE = 3
# A device that works less of the time waits for the host.
BUSY = 0.85
# The tokens and the loss of each step.
StepLosses: TypeAlias = list[tuple[int, float | None]]


def steady(result: RunResult, *, has_profile: bool) -> list[MeasuredStep]:
    """The steps that count: neither those that warm up, nor the one that was profiled."""
    steps = result.steps[: len(result.steps) - has_profile]
    return steps[len(steps) // WARM_UP_SHARE :]


def summarise(
    orders: Sequence[RunOrder], runs: Mapping[str, Sequence[RunResult]], flops_per_token: float, tflops: float
) -> dict[str, dict[str, Any]]:
    """The figures of each rival, over all its rounds, and how they compare with the page and the fastest stock."""
    has_profile = orders[0].has_profile
    good = {name: [run for run in results if run.failed is None] for name, results in runs.items()}
    rates = {name: rate(results, has_profile=has_profile) for name, results in good.items() if results}
    stock = max((rates[order.name] for order in orders if is_stock(order) and order.name in rates), default=None)
    limit = tflops * 1e12 / flops_per_token
    told = {}
    for order in orders:
        name, results = order.name, runs[order.name]
        told[name] = order.rival.model_dump(exclude={"name"}, exclude_defaults=True)
        told[name]["failed"] = [run.failed for run in results if run.failed is not None]
        if name in rates:
            told[name] |= {
                "tokens_per_second": round(rates[name], 1),
                "step_seconds": round(step_seconds(good[name], has_profile=has_profile), 4),
                "times_page": ratio(rates[name], rates.get(PAGE)),
                "times_fastest_stock": ratio(rates[name], stock),
                "share_of_limit": round(rates[name] / (limit * order.gpus), 4),
                **gained(order, rates, good),
                **costs(good[name]),
                **losses(good[name][0], next(iter(good.get(PAGE, [])), None)),
                **bound(good[name][-1], rates[name]),
                "reports": good[name][0].reports,
            }
    return told


def is_stock(order: RunOrder) -> bool:
    return order.rival.runner == "stock_script"


def gained(order: RunOrder, rates: Mapping[str, float], good: Mapping[str, Sequence[RunResult]]) -> dict[str, Any]:
    """What several GPUs gain over one, if that was measured too, and how far their losses are from its at most."""
    alone = order.rival.name
    if order.gpus == 1 or alone not in rates:
        return {}
    apart = worst_difference(all_losses(good[order.name][0]), all_losses(good[alone][0]))
    return {"times_one_gpu": ratio(rates[order.name], rates[alone]), "worst_loss_difference_to_one_gpu": apart}


def rate(results: Sequence[RunResult], *, has_profile: bool) -> float:
    """Tokens a second without padding: the median over the steps of all rounds."""
    steps = [step for result in results for step in steady(result, has_profile=has_profile)]
    return statistics.median(step.tokens / step.seconds for step in steps)


def step_seconds(results: Sequence[RunResult], *, has_profile: bool) -> float:
    return statistics.median(step.seconds for result in results for step in steady(result, has_profile=has_profile))


def ratio(value: float, of: float | None) -> float | None:
    return None if of is None else round(value / of, 3)


def costs(results: Sequence[RunResult]) -> dict[str, Any]:
    """Memory, and the seconds until a training is under way, of each round.

    Imports ran beside those of other rivals; everything else ran alone.
    """
    parts = ("import_seconds", "load_seconds", "first_step_seconds")
    seconds = {part: [round(getattr(result, part), 1) for result in results] for part in parts}
    return {
        "allocated_gib": most_gib(result.allocated_bytes for result in results),
        "reserved_gib": most_gib(result.reserved_bytes for result in results),
        "host_gib": most_gib(result.host_bytes for result in results),
        **seconds,
    }


def most_gib(counts: Iterable[int | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return round(max(known) / GIB, 2) if known else None


def losses(result: RunResult, page: RunResult | None) -> dict[str, Any]:
    """The loss of each step, and how far it is from the page's at most, if the same rows were trained in each step."""
    own = all_losses(result)
    told: dict[str, Any] = {"losses": [None if loss is None else round(loss, 4) for _, loss in own]}
    if page is None:
        return told
    of_page = all_losses(page)
    told["has_rows_of_page"] = [tokens for tokens, _ in own] == [tokens for tokens, _ in of_page]
    if told["has_rows_of_page"]:
        told["worst_loss_difference"] = worst_difference(own, of_page)
    return told


def worst_difference(own: StepLosses, others: StepLosses) -> float | None:
    """The largest relative difference of the losses of a step."""
    pairs = [(mine, other) for (_, mine), (_, other) in zip(own, others, strict=True) if mine and other]
    return max((float(f"{abs(mine / other - 1):.2g}") for mine, other in pairs), default=None)


def all_losses(result: RunResult) -> StepLosses:
    """Tokens and loss of each step."""
    first = (result.first_step_tokens, result.first_loss)
    return [first, *((step.tokens, step.loss) for step in result.steps)]


def bound(result: RunResult, tokens_per_second: float) -> dict[str, Any]:
    """What holds the training up, by the profile of its last step, if there is one.

    A profiled step is slow, because the profiler works on the host: the busy time of the device is therefore taken a
    token, and compared with the time that a token takes in steps without profiler.
    """
    found = result.profile
    if found is None:
        return {}
    name, milliseconds, _ = found.top_kernels[0]
    top = f"{name} takes {milliseconds / 1000 / found.busy_seconds:.0%} of its time"
    told = {"kernel_count": found.kernel_count, "top_kernels": found.top_kernels}
    if not found.is_gpu:
        return {"bound": f"the CPU: {top}", **told}
    busy = found.busy_seconds / result.steps[-1].tokens * tokens_per_second
    is_host = busy < BUSY
    what = f"the host: the GPU works {busy:.0%} of the time" if is_host else f"the GPU: {top}"
    return {"bound": what, "gpu_busy": round(busy, 3), **told}
