"""Holds the memory model against one GPU: random Llamas train three steps of one packed row. Prints JSON.

usage: python -m bench.memory_model WORK_DIR [--dry] [--only NAME,NAME]

A case is a size of the base, its bits, LoRA rank, tokens of the row, recomputation and optimizer. `allocated` and
`reserved` are the peaks of torch's allocator, without what was allocated before the case; `error` is that of the
prediction against `allocated`. `--dry` prints the predictions alone, and needs no GPU. All cases run in one process,
because importing Unsloth takes half a minute; the models are made once, in WORK_DIR. About four minutes on an H200.
"""

import argparse
import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.contracts.memory_model import MicroBatchSize, Recomputation, predict
from app.contracts.model_shape import BaseShape, shape_of, trained_parameters
from app.contracts.plan import plan_of
from app.contracts.spec import JobSpec
from app.contracts.step_time import operations, rate_of, step_seconds
from app.contracts.step_tokens import StepTokens
from worker.model_card import card_of

GIB = 2**30
SEGMENTS = 8
STEPS = 3
DEVICE = "cuda"
# Sizes of SmolLM2-135M, Llama 3.2 1B and 3B.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49_152, "max_position_embeddings": 32_768},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "max_position_embeddings": 131_072},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256, "max_position_embeddings": 131_072},
}  # fmt: skip


@dataclass(frozen=True)
class MemoryCase:
    size: str
    bits: int
    rank: int
    tokens: int
    recomputation: Recomputation
    optim: str

    @property
    def name(self) -> str:
        kept = "kept" if not self.recomputation else str(self.recomputation)
        return f"{self.size}-{self.bits}bit-r{self.rank}-{self.tokens}-{kept}-{self.optim}"


CASES: Sequence[MemoryCase] = (
    MemoryCase("135m", 16, 8, 2048, False, "adamw_torch_fused"),
    MemoryCase("135m", 16, 64, 8192, False, "adamw_8bit"),
    MemoryCase("135m", 4, 16, 16_384, False, "adamw_8bit"),
    MemoryCase("135m", 16, 16, 16_384, "unsloth", "adamw_8bit"),
    MemoryCase("1b", 16, 16, 1024, False, "adamw_8bit"),
    MemoryCase("1b", 16, 64, 4096, False, "adamw_torch_fused"),
    MemoryCase("1b", 16, 16, 16_384, False, "adamw_8bit"),
    MemoryCase("1b", 16, 16, 8192, "unsloth", "adamw_8bit"),
    MemoryCase("1b", 4, 16, 2048, False, "adamw_8bit"),
    MemoryCase("1b", 4, 64, 8192, False, "adamw_torch_fused"),
    MemoryCase("1b", 4, 8, 4096, "unsloth", "adamw_8bit"),
    MemoryCase("1b", 4, 16, 16_384, "unsloth", "adamw_8bit"),
    MemoryCase("3b", 16, 16, 4352, False, "adamw_torch_fused"),
    MemoryCase("3b", 16, 16, 8192, False, "adamw_8bit"),
    MemoryCase("3b", 16, 64, 16_384, False, "adamw_8bit"),
    MemoryCase("3b", 16, 16, 8192, "unsloth", "adamw_8bit"),
    MemoryCase("3b", 4, 16, 1024, "unsloth", "adamw_8bit"),
    MemoryCase("3b", 4, 16, 4352, False, "adamw_8bit"),
    MemoryCase("3b", 4, 32, 8192, "unsloth", "adamw_torch_fused"),
    MemoryCase("3b", 4, 16, 16_384, "unsloth", "adamw_8bit"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--dry", action="store_true", help="print the predictions, and train nothing")
    parser.add_argument("--only", default="", help="parts of the names of the cases to run, with commas")
    options = parser.parse_args()
    parts = options.only.split(",")
    cases = [case for case in CASES if any(part in case.name for part in parts)]
    if options.dry:
        print(json.dumps({"cases": [predicted(case, None) for case in cases]}, indent=1))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measured(cases, options.work), indent=1))


def shape_for(size: str) -> BaseShape:
    """The shape of a base as a check would find it: tied embeddings, and all its tensors counted."""
    sizes = SIZES[size]
    card = card_of({**sizes, "tie_word_embeddings": True}, 1)
    shape = shape_of(card)
    assert shape is not None, "the sizes are whole"
    norms = (2 * shape.layers + 1) * shape.hidden
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.projections.values())
    numbers = linear + norms + shape.embeddings
    return BaseShape(**{**asdict(shape), "parameters": numbers, "weight_bytes": 2 * numbers})


def spec_for(case: MemoryCase) -> JobSpec:
    spec = JobSpec.model_validate(
        {
            "model": {"model_name": "local", "load_in_4bit": case.bits == 4, "max_seq_length": case.tokens},
            "lora": {"r": case.rank, "use_gradient_checkpointing": case.recomputation},
            "dataset": {"source": {"path": "none.jsonl"}},
            "training": {"optim": case.optim},
        }
    )
    return plan_of(spec)


def predicted(case: MemoryCase, device: str | None) -> dict[str, Any]:
    spec, shape = spec_for(case), shape_for(case.size)
    micro_batch = MicroBatchSize(case.tokens, case.recomputation)
    memory, rate = predict(spec, shape, micro_batch), rate_of(device or "")
    context = case.tokens / SEGMENTS
    rows = StepTokens(int(context), case.tokens, float(case.tokens), context)
    seconds = step_seconds(spec, shape, rows, micro_batch, rate) if rate is not None else None
    needed = operations(spec, shape, case.tokens, context, recomputes=bool(case.recomputation))
    return {
        "case": case.name,
        "predicted_gib": round(memory.peak() / GIB, 3),
        "parts_gib": {name: round(value / GIB, 3) for name, value in asdict(memory).items()},
        "trained_parameters": trained_parameters(spec, shape),
        "predicted_seconds": None if seconds is None else round(seconds, 4),
        "tera_operations": round(needed / 1e12, 2),
    }


def measured(cases: Sequence[MemoryCase], work: Path) -> dict[str, Any]:
    import torch
    import unsloth

    device = torch.cuda.get_device_name(0)
    versions = {"torch": torch.__version__, "unsloth": unsloth.__version__}
    found = []
    for case in cases:
        folder = work / case.size
        if not folder.exists():
            write_model(case.size, folder)
        result = predicted(case, device)
        try:
            result |= run(case, folder)
            result["error"] = round(result["predicted_gib"] / result["allocated_gib"] - 1, 4)
        except torch.OutOfMemoryError as error:
            result["failed"] = str(error)[:300]
        found.append(result)
    errors = [result["error"] for result in found if "error" in result]
    summary = {"lowest_error": min(errors, default=None), "highest_error": max(errors, default=None)}
    return {"device": device, "versions": versions, **summary, "cases": found}


def write_model(size: str, folder: Path) -> None:
    """Write a random model in 16 bits, with the tokenizer of the tests' tiny model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.support.tiny_model import build_tiny_model

    tiny = build_tiny_model(folder.with_name("tiny"))
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = LlamaConfig(**SIZES[size], tie_word_embeddings=True, dtype="bfloat16", **ends)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    release()


def run(case: MemoryCase, folder: Path) -> dict[str, Any]:
    """Train the case for STEPS steps on the same row. The seconds are those of the last step."""
    import torch
    from unsloth import FastLanguageModel

    release()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    spec = spec_for(case)
    model, _ = FastLanguageModel.from_pretrained(
        str(folder),
        max_seq_length=case.tokens,
        dtype=torch.bfloat16,
        load_in_4bit=case.bits == 4,
        use_gradient_checkpointing=case.recomputation,
        use_exact_model_name=True,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=case.rank,
        target_modules=spec.lora.named_targets,
        lora_alpha=16,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing=case.recomputation,
        random_state=3407,
        max_seq_length=case.tokens,
    )
    model.train()
    loaded = torch.cuda.memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()  # loading reads weights in 16 bits before it quantises them
    seconds = train(model, case)
    result = {
        "loaded_gib": round(loaded / GIB, 3),
        "allocated_gib": round((torch.cuda.max_memory_allocated() - before) / GIB, 3),
        "reserved_gib": round((torch.cuda.max_memory_reserved() - before) / GIB, 3),
        "seconds": round(seconds, 4),
        "real_trained_parameters": sum(each.numel() for each in model.parameters() if each.requires_grad),
    }
    del model
    return result


def train(model: Any, case: MemoryCase) -> float:
    """Return the seconds of the last step."""
    import bitsandbytes
    import torch

    parameters = [each for each in model.parameters() if each.requires_grad]
    is_8bit = case.optim == "adamw_8bit"
    optimizer: Any = (
        bitsandbytes.optim.AdamW8bit(parameters, lr=1e-4)
        if is_8bit
        else torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    )
    each = case.tokens // SEGMENTS
    ids = torch.randint(10, 500, (1, case.tokens), device=DEVICE)
    positions = torch.arange(each, device=DEVICE).repeat(SEGMENTS).unsqueeze(0)
    lengths = torch.full((SEGMENTS,), each, dtype=torch.int32)
    seconds = 0.0
    for _ in range(STEPS):
        torch.cuda.synchronize()
        began = time.monotonic()
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = model(
                input_ids=ids, labels=ids, position_ids=positions, packed_seq_lengths=lengths, use_cache=False
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        seconds = time.monotonic() - began
    return seconds


def release() -> None:
    """Free what an earlier case left, also Unsloth's buffers for dequantised weights and offloaded inputs."""
    import torch
    import unsloth.kernels.utils as kernels
    from unsloth_zoo.gradient_checkpointing import unpatch_unsloth_smart_gradient_checkpointing

    kernels._SCRATCH.clear()
    unpatch_unsloth_smart_gradient_checkpointing()
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
