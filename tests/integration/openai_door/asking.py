"""A short greedy chat, unless the fields say otherwise."""

from typing import Any

import openai

CHAT: list[Any] = [{"role": "user", "content": "What comes after 89?"}]
BASE = "base-0"


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    asked = {"model": BASE, "messages": CHAT, "max_tokens": 12, "temperature": 0, **fields}
    return client.chat.completions.create(**asked)
