"""Tiny bases and adapters on disk, and what plain transformers and PEFT answer with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.contracts.generation import AdapterRef
from tests.support.tiny_model import build_tiny_model
from worker.inference.engine import AdapterFolder, ModelFolder, TokenRequest

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTERS: dict[str, dict[str, Any]] = {
    "small": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "wide": {"r": 8, "lora_alpha": 32, "use_rslora": True, "lora_dropout": 0.5, "target_modules": list(ALL_LINEAR)},
    "directed": {"r": 4, "use_dora": True, "target_modules": ["v_proj", "up_proj"]},
    "biased": {"r": 4, "bias": "all", "target_modules": ["k_proj", "gate_proj"]},
    "biased too": {"r": 2, "bias": "all", "target_modules": ["k_proj", "q_proj"]},
    "headed": {"r": 2, "target_modules": ["o_proj", "down_proj"], "modules_to_save": ["lm_head"]},
}
# Parts of an adapter that change nothing before they are trained.
STARTS_AT_ZERO = ("lora_B", "lora_embedding_A", "modules_to_save", "trainable_tokens_delta")


@dataclass(frozen=True)
class ServedModel:
    """Two bases, and adapters of the first one whose answers differ from each other and from the base's.

    The endless base never ends an answer by itself. The adapter "wild" is valid and overflows as soon as it is used.
    """

    base: ModelFolder
    other_base: ModelFolder
    endless_base: ModelFolder
    adapters: dict[str, AdapterFolder]

    def adapter(self, name: str) -> AdapterFolder | None:
        """None for "base"."""
        return None if name == "base" else self.adapters[name]

    def ref(self, name: str) -> AdapterRef | None:
        """What the API tells the engine of it; None for "base"."""
        if name == "base":
            return None
        adapter_id, version = self.adapters[name].name.split("@")
        return AdapterRef(adapter_id=adapter_id, version=version, path=str(self.adapters[name].folder), kind="lora")


def build_served_model(folder: Path, *, heads: int = 4) -> ServedModel:
    bases = [build_tiny_model(folder / f"base-{seed}", seed=seed, heads=heads) for seed in (0, 1, 2)]
    _silence_end_token(bases[2])
    first, second, third = (ModelFolder(path.name, path) for path in bases)
    served_model = ServedModel(first, second, third, {})
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        path = build_tiny_adapter(folder / name, bases[0], seed=seed, **config)
        served_model.adapters[name] = AdapterFolder(f"adapter-{name}@v1", path)
    wild = build_tiny_adapter(folder / "wild", bases[0], strength=1e36, **ADAPTERS["wide"])
    served_model.adapters["wild"] = AdapterFolder("adapter-wild@v1", wild)
    return served_model


def build_tiny_adapter(folder: Path, base: Path, *, seed: int = 0, strength: float = 0.5, **config: Any) -> Path:
    """Write a LoRA bundle with random weights, none of them zero, and the base's tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **config))
        for name, weights in model.named_parameters():
            if weights.requires_grad and (name.endswith(".bias") or any(part in name for part in STARTS_AT_ZERO)):
                torch.nn.init.normal_(weights.data, std=strength)
    model.save_pretrained(folder, save_embedding_layers=False)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def _silence_end_token(base: Path) -> None:
    """Give the end token the score 0 always: some other token has a better one."""
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"][AutoTokenizer.from_pretrained(base).eos_token_id] = 0
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


@cache
def reference(base: ModelFolder, adapter: AdapterFolder | None, prompt: Sequence[int], tokens: int) -> list[int]:
    """The greedy answer of transformers' own `generate`, its end token left out."""
    model = _reference_model(base, adapter)
    ids = torch.tensor([list(prompt)])
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    answer: list[int] = written[0, len(prompt) :].tolist()
    return [token for token in answer if token != model.generation_config.eos_token_id]


def expected(request: TokenRequest) -> list[int]:
    """What `reference` answers to a greedy request."""
    return reference(request.base, request.adapter, tuple(request.prompt_ids), request.sampling.max_new_tokens)


@lru_cache(maxsize=32)
def _reference_model(base: ModelFolder, adapter: AdapterFolder | None) -> Any:
    """A model that only `reference` uses."""
    model = AutoModelForCausalLM.from_pretrained(base.folder)
    return model if adapter is None else PeftModel.from_pretrained(model, adapter.folder)
