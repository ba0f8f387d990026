"""`python -m bench.training.base FOLDER SHAPE`: make the model, and measure the device. Prints one line of JSON.

SHAPE is a key of `bench.serving.SHAPES`; "none" makes no model. "3b" is that of Llama-3.2-3B, with random weights.
"""

import json
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from bench.serving import KEY_HEADS, SHAPES, VOCABULARY
from tests.support.tiny_model import build_tiny_model

CONTEXT_TOKENS = 131_072
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# The side of the matrices that are multiplied to measure the device.
SIDE, SIDE_ON_CPU = 8192, 1024
PRODUCTS = 10
# So few that the queue of the GPU is never full.
LAUNCHES = 500
PACKAGES = ("torch", "triton", "transformers", "trl", "peft", "bitsandbytes", "unsloth", "unsloth_zoo")


def main() -> None:
    folder, shape = Path(sys.argv[1]), sys.argv[2]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if shape != "none":
        make_model(folder, shape, device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads of a CPU"
    told = {"device": name, "is_gpu": device == "cuda", "tflops": measure_rate(device)}
    if device == "cuda":
        told["launch_microseconds"] = measure_launches()
    print(json.dumps({**told, "versions": {one.name: one.version for one in distributions() if one.name in PACKAGES}}))


def make_model(folder: Path, shape: str, device: str) -> None:
    """A Llama of random weights with tied embeddings, in bfloat16, and a tokenizer of few tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = AutoTokenizer.from_pretrained(build_tiny_model(Path(scratch)))
    tokenizer.model_max_length = CONTEXT_TOKENS
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        **SHAPES[shape],
        **ends,
        vocab_size=max(VOCABULARY[shape], len(tokenizer)),
        num_key_value_heads=KEY_HEADS[shape],
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters=ROPE,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure_rate(device: str) -> float:
    """TFLOP/s of products of two square bfloat16 matrices of random numbers."""
    side = SIDE if device == "cuda" else SIDE_ON_CPU
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(PRODUCTS):  # the clock of an idle card is low
        left @ right
    _wait(device)
    began = time.perf_counter()
    for _ in range(PRODUCTS):
        left @ right
    _wait(device)
    return PRODUCTS * 2 * side**3 / (time.perf_counter() - began) / 1e12


def measure_launches() -> float:
    """The microseconds that this host takes to start one small kernel."""
    small = torch.zeros(1, device="cuda")
    small.add_(1)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(LAUNCHES):
        small.add_(1)
    seconds = time.perf_counter() - began
    torch.cuda.synchronize()
    return seconds / LAUNCHES * 1e6


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
