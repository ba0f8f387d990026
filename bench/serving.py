"""What bench/serve.py measures with: models and adapters of random weights, crowds of clients, and PEFT alone."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from app.contracts.generation import Sampling
from worker.inference.engine import AdapterFolder, Ended, Engine, ModelFolder, Token, TokenRequest
from worker.inference.models.bases import Placement

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "512x8": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24},
}
KEY_HEADS = {"tiny": 2, "512x8": 4, "3b": 8}
VOCABULARY = {"tiny": 512, "512x8": 8192, "3b": 128_256}
CONTEXT_TOKENS = 2048


@dataclass(frozen=True)
class Workload:
    """A base, adapters of it, and what the requests are like."""

    base: ModelFolder
    adapters: list[AdapterFolder]
    vocabulary: int
    prompt_tokens: tuple[int, int]
    answer_tokens: tuple[int, int]

    def prompt(self, rng: random.Random, tokens: int | None = None) -> list[int]:
        count = rng.randint(*self.prompt_tokens) if tokens is None else tokens
        return [rng.randrange(1, self.vocabulary) for _ in range(count)]

    def request(self, adapter: AdapterFolder | None, prompt: list[int], tokens: int, **options: Any) -> TokenRequest:
        """Greedy unless the options say otherwise; no end token: it has as many tokens as asked for."""
        sampling = Sampling(**{"temperature": 0, "max_new_tokens": tokens, **options})
        return TokenRequest(self.base, adapter, prompt, frozenset(), sampling)

    def requests(self, count: int, speakers: Sequence[AdapterFolder | None], seed: int) -> list[TokenRequest]:
        rng = random.Random(seed)
        return [
            self.request(speakers[n % len(speakers)], self.prompt(rng), rng.randint(*self.answer_tokens))
            for n in range(count)
        ]


def build_workload(folder: Path, shape: str, adapters: int, placement: Placement) -> Workload:
    """Write a base of this shape and adapters of rank 16 on all its linear layers."""
    sizes = SHAPES[shape]
    config = LlamaConfig(
        **sizes,
        vocab_size=VOCABULARY[shape],
        num_key_value_heads=KEY_HEADS[shape],
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(placement.device):
        model = LlamaForCausalLM(config).to(placement.dtype)
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder / "base")
    shapes = {path: tuple(module.weight.shape) for path, module in model.named_modules() if path.endswith(ALL_LINEAR)}
    del model
    made = [_write_adapter(folder / f"adapter-{n}", shapes, seed=n, rank=16) for n in range(adapters)]
    is_large = shape == "3b"
    return Workload(
        ModelFolder(shape, folder / "base"),
        made,
        VOCABULARY[shape],
        (64, 512) if is_large else (16, 64),
        (16, 128) if is_large else (16, 48),
    )


def _write_adapter(folder: Path, shapes: dict[str, tuple[int, ...]], *, seed: int, rank: int) -> AdapterFolder:
    rng = torch.Generator().manual_seed(seed)
    LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM").save_pretrained(folder)
    tensors = {}
    for path, (outputs, inputs) in shapes.items():
        key = f"base_model.model.{path}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(rank, inputs, generator=rng) / inputs**0.5
        tensors[f"{key}.lora_B.weight"] = torch.randn(outputs, rank, generator=rng) * 0.1
    save_file(tensors, folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == rank
    return AdapterFolder(f"{folder.name}@v1", folder)


@dataclass
class Answer:
    """What one client saw, and when (seconds since it asked)."""

    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    cached_tokens: int = 0
    error: str | None = None


async def ask(engine: Engine, request: TokenRequest, *, leave_after: int | None = None) -> Answer:
    """Read an answer to its end, or leave after some tokens."""
    answer, began = Answer(), time.perf_counter()
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            match event:
                case Token():
                    answer.tokens.append(event.id)
                    answer.times.append(time.perf_counter() - began)
                    if len(answer.tokens) == leave_after:
                        break
                case Ended():
                    answer.cached_tokens = event.cached_tokens
                case _:
                    answer.error = event.code
    return answer


async def crowd(engine: Engine, requests: Sequence[TokenRequest], clients: int) -> tuple[list[Answer], float]:
    """All answers, in order, with so many clients that each wait for their answer; and the seconds it took."""
    waiting = asyncio.Semaphore(clients)

    async def one(request: TokenRequest) -> Answer:
        async with waiting:
            return await ask(engine, request)

    began = time.perf_counter()
    answers = await asyncio.gather(*map(one, requests))
    return list(answers), time.perf_counter() - began


class PeftAlone:
    """PEFT and transformers as they are: one model, `set_adapter`, `generate`, one request after another."""

    def __init__(self, workload: Workload, adapters: Sequence[AdapterFolder], placement: Placement) -> None:
        base = AutoModelForCausalLM.from_pretrained(workload.base.folder, dtype=placement.dtype)
        base = base.to(placement.device).eval()
        self._model = PeftModel.from_pretrained(base, adapters[0].folder, adapter_name="0").eval()
        self._names = {adapters[0].name: "0"}
        for number, adapter in enumerate(adapters[1:], start=1):
            self._model.load_adapter(adapter.folder, adapter_name=str(number))
            self._names[adapter.name] = str(number)

    def answer(self, request: TokenRequest) -> list[int]:
        """The greedy answer."""
        if request.adapter is None:
            with self._model.disable_adapter():
                return self._generate(request)
        self._model.set_adapter(self._names[request.adapter.name], inference_mode=True)
        return self._generate(request)

    def _generate(self, request: TokenRequest) -> list[int]:
        ids = torch.tensor([request.prompt_ids], device=self._model.device)
        wanted = request.sampling.max_new_tokens
        written = self._model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=wanted, do_sample=False, pad_token_id=0
        )
        tokens: list[int] = written[0, ids.shape[1] :].tolist()
        return tokens
