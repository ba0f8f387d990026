"""The chat templates that Unsloth knows by name (unsloth 2026.10.9, `unsloth.chat_templates.CHAT_TEMPLATES`).

This is a copy of the names, because the API must not import Unsloth. A test compares the two.
"""

CHAT_TEMPLATES = (
    "alpaca", "chatml", "gemma", "gemma-3", "gemma-3n", "gemma-4", "gemma-4-thinking", "gemma2", "gemma2_chatml",
    "gemma3", "gemma3n", "gemma4", "gemma4-thinking", "gemma_chatml", "gpt-oss", "gptoss", "lfm-2", "lfm-2.5", "llama",
    "llama-3", "llama-3.1", "llama-3.2", "llama-3.3", "llama-31", "llama-32", "llama-33", "llama3", "mistral", "phi-3",
    "phi-3.5", "phi-35", "phi-4", "qwen-2.5", "qwen-2.5-coder", "qwen-25", "qwen-25-coder", "qwen-3", "qwen2.5",
    "qwen2.5-coder", "qwen25", "qwen25-coder", "qwen3", "qwen3-instruct", "qwen3-thinking", "starling", "unsloth",
    "vicuna", "vicuna old", "vicuna_old", "yi-chat", "zephyr",
)  # fmt: skip
