"""RoPE that is scaled linearly to more positions than a model knows, as Unsloth's `max_seq_length` promises it.

The check decides it, and trainer and engine are told of it: neither of them scales by itself.
"""

from typing import Any

LINEAR = "linear"
# Unsloth's own RoPE of these does not look at the config.
NOT_SCALABLE = frozenset({"gemma", "gemma2"})


def rope_type(config: Any) -> str:
    """Of a transformers config: `default` is the plain one, the only one that is scaled here."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if text.model_type in NOT_SCALABLE:
        return f"{text.model_type}'s own"
    return str(rope.get("rope_type", "none of one kind for all layers")) if isinstance(rope, dict) else "unknown"


def linear_rope(config: Any, positions: int) -> dict[str, Any]:
    """The parameters with which a model reads so many positions: all angles divided by one factor."""
    text = config.get_text_config()
    factor = positions / text.max_position_embeddings
    return {**text.rope_parameters, "rope_type": LINEAR, "factor": factor}


def scale(config: Any, positions: int) -> None:
    """Change the config of a model before it is made."""
    text = config.get_text_config()
    text.rope_parameters = linear_rope(config, positions)
    text.max_position_embeddings = positions
