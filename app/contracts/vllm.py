"""Which vLLM answers in place of the embedded engine: two variables that `tunesmith up` and the engine read alike."""

import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

URL_VARIABLE = "TUNESMITH_VLLM_URL"
COMMAND_VARIABLE = "TUNESMITH_VLLM_COMMAND"
ONE_OF_BOTH = f"{URL_VARIABLE} names a vLLM server that runs, {COMMAND_VARIABLE} one to be started: set one of them"
SERVE = "serve"


@dataclass(frozen=True)
class VllmCommand:
    """How vLLM is started: the program's words up to `serve`, and the operator's own options."""

    program: tuple[str, ...]
    options: tuple[str, ...]


def read_url(text: str) -> str:
    """The same text. Raises ValueError for one that is no http URL."""
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname:
        raise ValueError(f"found {text!r}, expected a URL such as http://127.0.0.1:8200")
    return text


def read_command(text: str) -> VllmCommand:
    """Words as a shell splits them; no shell runs them. Raises ValueError for those that have no `serve`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"found {text!r}, whose words cannot be told apart: {error}") from None
    if SERVE not in words[1:]:
        raise ValueError(f"found {text!r}, expected a command such as 'vllm serve --max-lora-rank 64'")
    end = words.index(SERVE, 1) + 1
    return VllmCommand(tuple(words[:end]), tuple(words[end:]))
