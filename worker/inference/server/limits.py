"""Checks the limits of a loaded model: its vocabulary, its context length and its end tokens."""

from typing import Any

from app.contracts.engine_cache import VARIABLE as CACHE_VARIABLE
from app.contracts.generation import CONTEXT_EXCEEDED
from worker.inference.engine import Refusal


def check_fits(model: Any, prompt_ids: list[int], max_new_tokens: int) -> None:
    """Raises Refusal if the model cannot read the prompt, before anything is computed."""
    check_prompt(model, prompt_ids)
    check_length(model_limit(model), len(prompt_ids), max_new_tokens)


def check_prompt(model: Any, prompt_ids: list[int]) -> None:
    """Raises Refusal if the prompt is empty, or has a token that the model does not have."""
    config = model.config.get_text_config()
    if not prompt_ids:
        raise Refusal(422, "empty_prompt", "the prompt has no tokens, expected at least one", "prompt")
    unknown = next((token for token in prompt_ids if not 0 <= token < config.vocab_size), None)
    if unknown is not None:
        message = f"the tokenizer gives token {unknown}, but the model has only {config.vocab_size} tokens"
        raise Refusal(409, "tokenizer_mismatch", message)


def check_length(limit: int | None, prompt_tokens: int, max_new_tokens: int) -> None:
    """Raises Refusal if prompt and answer together are longer than `limit` tokens. None: no limit is known."""
    if limit is not None and prompt_tokens + max_new_tokens > limit:
        raise _too_long(prompt_tokens, max_new_tokens, limit)


def model_limit(model: Any) -> int | None:
    """The context length in tokens, prompt and answer together. Returns None if the config does not give it."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def check_cache_holds(cache_tokens: int, prompt_tokens: int, max_new_tokens: int) -> None:
    """Raises Refusal if the keys and values of an answer do not fit into the cache. Its last token needs none."""
    if prompt_tokens + max_new_tokens - 1 > cache_tokens:
        where = f" in this engine's memory ({CACHE_VARIABLE} sets how much it has)"
        raise _too_long(prompt_tokens, max_new_tokens, cache_tokens + 1, where)


def _too_long(prompt_tokens: int, max_new_tokens: int, limit: int, where: str = "") -> Refusal:
    """The refusal with OpenAI's code and sentences, by which agents recognise that they must shorten a conversation."""
    known = f"This model's maximum context length is {limit} tokens{where}."
    room = limit - prompt_tokens
    if room <= 0:
        found = f"However, your messages resulted in {prompt_tokens} tokens. Please reduce the length of the messages."
        return Refusal(422, CONTEXT_EXCEEDED, f"{known} {found}", "prompt")
    found = (
        f"However, you requested {prompt_tokens + max_new_tokens} tokens ({prompt_tokens} in the messages, "
        f"{max_new_tokens} in the completion). Please reduce the length of the messages or completion. "
        f"max_new_tokens can be at most {room}."
    )
    return Refusal(422, CONTEXT_EXCEEDED, f"{known} {found}", "max_new_tokens")


def end_tokens(model: Any) -> set[int]:
    """The end-of-sequence tokens that the model's generation config names, possibly none."""
    named = model.generation_config.eos_token_id
    return set(named if isinstance(named, list) else [] if named is None else [named])
