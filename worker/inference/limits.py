"""What a loaded model can read, and where its answers end."""

from typing import Any

from app.contracts.engine_cache import VARIABLE as CACHE_VARIABLE
from worker.inference.engine import Refusal


def check_fits(model: Any, prompt_ids: list[int], max_new_tokens: int) -> None:
    """Raises Refusal for a prompt that the model cannot read, before anything is computed."""
    check_prompt(model, prompt_ids)
    check_length(model_limit(model), len(prompt_ids), max_new_tokens)


def check_prompt(model: Any, prompt_ids: list[int]) -> None:
    """Raises Refusal for no tokens, and for one that the model does not have."""
    config = model.config.get_text_config()
    if not prompt_ids:
        raise Refusal(422, "empty_prompt", "the prompt has no tokens, at least one is needed", "prompt")
    unknown = next((token for token in prompt_ids if not 0 <= token < config.vocab_size), None)
    if unknown is not None:
        message = f"the tokenizer gives token {unknown}, the model knows {config.vocab_size}: they do not fit together"
        raise Refusal(409, "tokenizer_mismatch", message)


def check_length(limit: int | None, prompt_tokens: int, max_new_tokens: int) -> None:
    """Raises Refusal for prompt and answer that are together longer than the model reads; None: it does not say."""
    if limit is not None and prompt_tokens + max_new_tokens > limit:
        raise _too_long(prompt_tokens, max_new_tokens, f"the model reads at most {limit} together", limit)


def model_limit(model: Any) -> int | None:
    """How many tokens the model reads, prompt and answer together; None when it does not say."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def check_cache_holds(cache_tokens: int, prompt_tokens: int, max_new_tokens: int) -> None:
    """Raises Refusal for an answer whose keys and values do not fit into the cache. Its last token has none."""
    if prompt_tokens + max_new_tokens - 1 > cache_tokens:
        reason = f"this engine's memory holds {cache_tokens + 1} together ({CACHE_VARIABLE} says how much it has)"
        raise _too_long(prompt_tokens, max_new_tokens, reason, cache_tokens + 1)


def _too_long(prompt_tokens: int, max_new_tokens: int, reason: str, limit: int) -> Refusal:
    found = f"the prompt has {prompt_tokens} tokens and max_new_tokens is {max_new_tokens}"
    room = limit - prompt_tokens
    right = f"at most {room} new tokens fit" if room > 0 else "shorten the prompt"
    return Refusal(422, "context_too_long", f"{found}; {reason}: {right}", "max_new_tokens" if room > 0 else "prompt")


def end_tokens(model: Any) -> set[int]:
    """The end-of-sequence tokens that the model's generation config names: none, one or several."""
    named = model.generation_config.eos_token_id
    return set(named if isinstance(named, list) else [] if named is None else [named])
