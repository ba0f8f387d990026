"""Which vLLM the engine uses: two variables that `tunesmith up` and the engine read in the same way."""

import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

URL_VARIABLE = "TUNESMITH_VLLM_URL"
COMMAND_VARIABLE = "TUNESMITH_VLLM_COMMAND"
ONE_OF_BOTH = f"{URL_VARIABLE} names a running vLLM server, {COMMAND_VARIABLE} one to be started: set only one of them"
SERVE = "serve"


@dataclass(frozen=True)
class VllmCommand:
    """The command that starts vLLM: the program's words up to `serve`, and the operator's options."""

    program: tuple[str, ...]
    options: tuple[str, ...]


def read_url(text: str) -> str:
    """Return the text. Raises ValueError if it is not an http or https URL."""
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname:
        raise ValueError(f"found {text!r}, expected a URL such as http://127.0.0.1:8200")
    return text


def read_command(text: str) -> VllmCommand:
    """Split a command in the same way as a shell, which is not used to run it. Raises ValueError without `serve`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"found {text!r}, whose words cannot be told apart: {error}") from None
    if SERVE not in words[1:]:
        raise ValueError(f"found {text!r}, expected a command such as 'vllm serve --max-lora-rank 64'")
    end = words.index(SERVE, 1) + 1
    return VllmCommand(tuple(words[:end]), tuple(words[end:]))
