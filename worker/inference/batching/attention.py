"""Attention over the paged cache, registered as a transformers attention function that takes the plan as a keyword."""

from typing import Any

from transformers import AttentionInterface

from worker.inference.batching.plan import BatchPlan, Scoring

NAME = "tunesmith_paged"
# Arguments of transformers' models that do not affect the result, or are None where they do not apply.
HARMLESS = {"dropout", "position_ids", "use_cache", "cache_position", "output_attentions", "output_hidden_states"}
HARMLESS |= {"position_embeddings", "past_key_values", "return_dict", "is_causal", "output_router_logits"}


class NotBatchable(Exception):
    """This model or adapter cannot be computed in a mixed batch; the message says why. It is served one request at a
    time.
    """


def paged_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    plan: BatchPlan | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """`query` [1, heads, tokens, size]; `key` and `value` have their own number of heads. Returns [1, tokens, heads,
    size].

    Raises NotBatchable for a kind of attention that is not supported.
    """
    _check(module, plan, attention_mask, others)
    assert plan is not None
    keys, values = plan.cache.write(module.layer_idx, plan.writes, key[0].transpose(0, 1), value[0].transpose(0, 1))
    plan.cache.windows[module.layer_idx] = sliding_window
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    answer = plan.attending.attend(query[0], (keys, values), Scoring(scale, softcap, sliding_window))
    return answer[None], None


def _check(module: Any, plan: BatchPlan | None, attention_mask: Any, others: dict[str, Any]) -> None:
    if plan is None:
        raise NotBatchable("the model does not pass keywords on to its attention")
    if attention_mask is not None:
        raise NotBatchable("the model creates its own attention mask")
    if getattr(module, "layer_idx", None) is None:
        raise NotBatchable("its attention layers are not numbered")
    unknown = sorted(name for name, given in others.items() if given is not None and name not in HARMLESS)
    if unknown:
        raise NotBatchable(f"its attention has the argument {unknown[0]}")


AttentionInterface.register(NAME, paged_attention)
