"""A short greedy chat or completion, unless the fields say otherwise."""

from typing import Any

import openai

CHAT: list[Any] = [{"role": "user", "content": "What comes after 89?"}]
BASE = "base-0"


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    asked = {"model": BASE, "messages": CHAT, "max_tokens": 12, "temperature": 0, **fields}
    return client.chat.completions.create(**asked)


def complete(client: openai.OpenAI, prompt: Any, **fields: Any) -> Any:
    """A short greedy completion of a text or of tokens, unless the fields say otherwise."""
    asked = {"model": BASE, "prompt": prompt, "max_tokens": 5, "temperature": 0, **fields}
    return client.completions.create(**asked)
