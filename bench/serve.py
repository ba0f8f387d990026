"""How fast the engine answers with many adapters at once, against PEFT's `generate`. Prints one line of JSON.

usage: serve.py [--device cpu] [--model-shape tiny|512x8|3b] [--adapters 16] [--concurrency 1 8 32 64]
       serve.py --soak [--requests 2000]      every answer is compared with PEFT's, a quarter of the clients leave early
"""

import argparse
import asyncio
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from bench.serving import Answer, PeftAlone, Workload, ask, build_workload, crowd
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.engine import AdapterFolder
from worker.inference.models.bases import Placement

PREFIX_TOKENS = 512
SOAK_CLIENTS = 24


def main() -> None:
    options = _options()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    placement = Placement.choose(options.device, options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        spare = 1  # an adapter that nobody has asked for when its loading is timed
        workload = build_workload(Path(folder), options.model_shape, options.adapters + spare, placement)
        figures = soak(workload, placement, options.requests) if options.soak else measure(workload, placement, options)
    name = torch.cuda.get_device_name() if placement.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(json.dumps({"device": name, "shape": options.model_shape, "torch": torch.__version__, **figures}))


def measure(workload: Workload, placement: Placement, options: argparse.Namespace) -> dict[str, Any]:
    adapters, cold = workload.adapters[:-1], workload.adapters[-1]
    alone = peft_alone(workload, adapters[:2], placement, options.serial_requests)
    engine = BatchingEngine(placement, limits=BatchLimits(adapters=max(16, len(adapters))))
    try:
        runs = []
        for count in sorted({0, 1, len(adapters)}):
            for clients in options.concurrency:
                run = throughput(engine, workload, adapters[:count], clients)
                runs.append({**run, "times_peft": round(run["tokens_per_second"] / alone, 2)})
        return {
            "peft_tokens_per_second": round(alone, 1),
            "runs": runs,
            "cold_adapter": asyncio.run(cold_adapter(engine, workload, cold, adapters)),
            "prefix": asyncio.run(prefix(engine, workload, adapters)),
        }
    finally:
        engine.close()
        engine.join(10)


def peft_alone(workload: Workload, adapters: Sequence[AdapterFolder], placement: Placement, count: int) -> float:
    """Tokens a second of PEFT, one request at a time."""
    peft = PeftAlone(workload, adapters, placement)
    peft.answer(workload.request(adapters[0], workload.prompt(random.Random(0)), 4))
    requests = workload.requests(count, adapters, seed=1)
    began = time.perf_counter()
    tokens = sum(len(peft.answer(request)) for request in requests)
    return tokens / (time.perf_counter() - began)


def throughput(
    engine: BatchingEngine, workload: Workload, adapters: list[AdapterFolder], clients: int
) -> dict[str, Any]:
    """Tokens a second with so many clients, adapters in turn; the same crowd has come once before."""
    speakers: list[AdapterFolder | None] = [*adapters] or [None]
    count = max(2 * clients, 4)
    asyncio.run(crowd(engine, workload.requests(count, speakers, seed=2), clients))
    answers, seconds = asyncio.run(crowd(engine, workload.requests(count, speakers, seed=3), clients))
    assert not [answer.error for answer in answers if answer.error]
    return {
        "adapters": len(adapters),
        "clients": clients,
        "tokens_per_second": round(sum(len(answer.tokens) for answer in answers) / seconds, 1),
        "first_token_ms": _ms(statistics.median(answer.times[0] for answer in answers)),
        "gap_ms": _ms(statistics.median(_gaps(answers))),
    }


async def cold_adapter(
    engine: BatchingEngine, workload: Workload, cold: AdapterFolder, adapters: list[AdapterFolder]
) -> dict[str, Any]:
    """What the first request of an adapter waits for it, and what the others feel of it."""
    rng = random.Random(4)
    others = [asyncio.ensure_future(ask(engine, workload.request(a, workload.prompt(rng), 128))) for a in adapters[:8]]
    await asyncio.sleep(0.2)
    first = await ask(engine, workload.request(cold, workload.prompt(rng, 32), 4))
    second = await ask(engine, workload.request(cold, workload.prompt(rng, 32), 4))
    gaps = [
        b - a for answer in await asyncio.gather(*others) for a, b in zip(answer.times, answer.times[1:], strict=False)
    ]
    return {
        "first_token_ms": _ms(first.times[0]),
        "first_token_warm_ms": _ms(second.times[0]),
        "added_ms": _ms(first.times[0] - second.times[0]),
        "others_gap_ms": _ms(statistics.median(gaps)),
        "others_worst_gap_ms": _ms(max(gaps)),
    }


async def prefix(engine: BatchingEngine, workload: Workload, adapters: list[AdapterFolder]) -> dict[str, Any]:
    """The first token of a long prompt whose beginning the same adapter has read, another one, or nobody."""
    rng = random.Random(5)
    misses: list[Answer] = []
    hits: list[Answer] = []
    others: list[Answer] = []
    for _ in range(5):
        shared = workload.prompt(rng, PREFIX_TOKENS)
        for adapter, found in ((adapters[0], misses), (adapters[0], hits), (adapters[-1], others)):
            found.append(await ask(engine, workload.request(adapter, [*shared, *workload.prompt(rng, 8)], 2)))
    miss, hit = (statistics.median(answer.times[0] for answer in answers) for answers in (misses, hits))
    return {
        "miss_ms": _ms(miss),
        "hit_ms": _ms(hit),
        "hit_to_miss": round(hit / miss, 3),
        "cached_tokens": hits[0].cached_tokens,
        "cached_tokens_of_another_adapter": max(a.cached_tokens for a in others) if len(adapters) > 1 else 0,
    }


def soak(workload: Workload, placement: Placement, count: int) -> dict[str, Any]:
    """Requests of a base and five adapters; a quarter of the clients leave. No answer may be another one's."""
    adapters: list[AdapterFolder | None] = [None, *workload.adapters[:5]]
    rng = random.Random(6)
    prompts = [workload.prompt(rng) for _ in range(6)]
    peft = PeftAlone(workload, workload.adapters[:5], placement)
    kinds = [workload.request(adapter, prompt, 16) for adapter in adapters for prompt in prompts]
    expected = [peft.answer(request) for request in kinds]
    engine = BatchingEngine(placement, places=count, limits=BatchLimits(answers=32, adapters=3, chunk_tokens=32))
    try:
        return asyncio.run(_soak(engine, kinds, expected, count))
    finally:
        engine.close()
        engine.join(10)


async def _soak(engine: BatchingEngine, kinds: list[Any], expected: list[list[int]], count: int) -> dict[str, Any]:
    waiting, rng = asyncio.Semaphore(SOAK_CLIENTS), random.Random(7)
    outcome = {"right": 0, "left": 0, "wrong": 0, "errors": 0}
    memory: list[int] = []

    async def one(number: int) -> None:
        kind = rng.randrange(len(kinds))
        leave_after = rng.randint(1, 12) if rng.random() < 0.25 else None
        async with waiting:
            answer = await asyncio.wait_for(ask(engine, kinds[kind], leave_after=leave_after), 120)
        is_right = answer.tokens == expected[kind][:leave_after]
        outcome["errors" if answer.error else "wrong" if not is_right else "left" if leave_after else "right"] += 1
        if number == count // 4:
            memory.append(_resident_kib())

    await asyncio.gather(*map(one, range(count)))
    for _ in range(100):
        if not engine.health().is_busy:
            break
        await asyncio.sleep(0.05)
    free, total = engine.count_blocks()
    return {**outcome, "free_blocks": free, "blocks": total, "memory_grew": round(_resident_kib() / memory[0] - 1, 4)}


def _resident_kib() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize() // 1024


def _gaps(answers: Sequence[Answer]) -> list[float]:
    return [later - sooner for a in answers for sooner, later in pairwise(a.times)]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="float32 for a soak on a GPU: rounding makes other tokens")
    parser.add_argument("--model-shape", choices=("tiny", "512x8", "3b"), default="512x8")
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--serial-requests", type=int, default=8)
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--requests", type=int, default=2000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
