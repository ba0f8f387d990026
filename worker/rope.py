"""Scales RoPE linearly to more positions than a model was made for, as Unsloth does for a larger `max_seq_length`.

The check decides whether to scale and tells the trainer and the engine; neither of them decides itself.
"""

from typing import Any

LINEAR = "linear"
# Unsloth's own RoPE for these models ignores the config.
NOT_SCALABLE = frozenset({"gemma", "gemma2"})


def rope_type(config: Any) -> str:
    """The RoPE type of a transformers config. Only "default", the plain one, can be scaled here."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if text.model_type in NOT_SCALABLE:
        return f"{text.model_type}'s own"
    return str(rope.get("rope_type", "none of one kind for all layers")) if isinstance(rope, dict) else "unknown"


def linear_rope(config: Any, positions: int) -> dict[str, Any]:
    """The RoPE parameters for this many positions: all angles are divided by one factor."""
    text = config.get_text_config()
    factor = positions / text.max_position_embeddings
    return {**text.rope_parameters, "rope_type": LINEAR, "factor": factor}


def scale(config: Any, positions: int) -> None:
    """Set the scaling in the config of a model that is not built yet."""
    text = config.get_text_config()
    text.rope_parameters = linear_rope(config, positions)
    text.max_position_embeddings = positions
