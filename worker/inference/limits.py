"""What a loaded model can read, and where its answers end."""

from typing import Any

from worker.inference.engine import Refusal


def check_fits(model: Any, prompt_ids: list[int], max_new_tokens: int) -> None:
    """Raises Refusal for a prompt that the model cannot read, before anything is computed."""
    config = model.config.get_text_config()
    if not prompt_ids:
        raise Refusal(422, "empty_prompt", "the prompt has no tokens, at least one is needed", "prompt")
    unknown = next((token for token in prompt_ids if not 0 <= token < config.vocab_size), None)
    if unknown is not None:
        message = f"the tokenizer gives token {unknown}, the model knows {config.vocab_size}: they do not fit together"
        raise Refusal(409, "tokenizer_mismatch", message)
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and len(prompt_ids) + max_new_tokens > limit:
        raise _too_long(len(prompt_ids), max_new_tokens, limit)


def _too_long(prompt_tokens: int, max_new_tokens: int, limit: int) -> Refusal:
    found = f"the prompt has {prompt_tokens} tokens and max_new_tokens is {max_new_tokens}"
    room = limit - prompt_tokens
    right = f"at most {room} new tokens fit" if room > 0 else "shorten the prompt"
    message = f"{found}; the model reads at most {limit} together: {right}"
    return Refusal(422, "context_too_long", message, "max_new_tokens")


def end_tokens(model: Any) -> set[int]:
    """The end-of-sequence tokens that the model's generation config names: none, one or several."""
    named = model.generation_config.eos_token_id
    return set(named if isinstance(named, list) else [] if named is None else [named])
