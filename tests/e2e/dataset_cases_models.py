"""Base models that differ in their language: each a tiny random Llama with another tokenizer and chat template."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.chat_formats import make_tokenizer
from tests.chat_formats.published import CHATML, GEMMA_2, MISTRAL_V1, QWEN_25
from tests.e2e.stack import MODEL
from tests.support.tiny_model import CONTEXT_TOKENS, build_tiny_model

# No template; no system role and strict turns; strict turns; tools; the end of a text as padding.
BARE, GEMMA, MISTRAL, QWEN, PADDED = "bare", "gemma-like", "mistral-like", "qwen-like", "padded-with-its-end"


def build_models(root: Path) -> Path:
    build_tiny_model(root / MODEL)
    for name, chat_format in ((GEMMA, GEMMA_2), (MISTRAL, MISTRAL_V1), (QWEN, QWEN_25)):
        _save(root / name, make_tokenizer(chat_format))
    bare = make_tokenizer(CHATML)
    bare.chat_template = None
    _save(root / BARE, bare)
    padded = AutoTokenizer.from_pretrained(root / MODEL)
    padded.pad_token = padded.eos_token
    _save(root / PADDED, padded)
    return root


def _save(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        dtype="float32",
        **ends,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
