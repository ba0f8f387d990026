"""Attention over the paged cache, as one of transformers' attention functions: it takes the plan as a keyword."""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from worker.inference.batching.plan import Part, Plan

NAME = "tunesmith_paged"
# Arguments of transformers' models that say nothing about the numbers, or are None where they do not apply.
HARMLESS = {"dropout", "position_ids", "use_cache", "cache_position", "output_attentions", "output_hidden_states"}
HARMLESS |= {"position_embeddings", "past_key_values", "return_dict", "is_causal", "output_router_logits"}


class NotBatchable(Exception):
    """This model or adapter cannot be computed in a mixed batch; the text says why. It is served one at a time."""


def paged_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    plan: Plan | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """`query` [1, heads, tokens, size], `key` and `value` with their own heads; returns [1, tokens, heads, size].

    Raises NotBatchable for a kind of attention that is not known here.
    """
    _check(module, plan, attention_mask, others)
    assert plan is not None
    keys, values = plan.cache.write(module.layer_idx, plan.writes, key[0].transpose(0, 1), value[0].transpose(0, 1))
    plan.cache.windows[module.layer_idx] = sliding_window
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads = query[0].unflatten(0, (key.shape[1], -1))  # [key heads, queries a key head, tokens, size]
    outputs = [_attend(part, heads, (keys, values), part.mask(sliding_window), (scale, softcap)) for part in plan.parts]
    return torch.cat(outputs)[None], None


def _check(module: Any, plan: Plan | None, attention_mask: Any, others: dict[str, Any]) -> None:
    if plan is None:
        raise NotBatchable("the model does not hand keywords on to its attention")
    if attention_mask is not None:
        raise NotBatchable("the model makes an attention mask of its own")
    if getattr(module, "layer_idx", None) is None:
        raise NotBatchable("its attention layers are not numbered")
    unknown = sorted(name for name, given in others.items() if given is not None and name not in HARMLESS)
    if unknown:
        raise NotBatchable(f"its attention takes {unknown[0]}")


def _attend(part: Part, heads: Any, stored: tuple[Any, Any], seen: Any, scores: tuple[float, float | None]) -> Any:
    """The queries of a key head share its keys: they are folded into one longer query, so no key is copied."""
    shape = (part.rows, part.length)
    query = heads[:, :, part.first : part.last].unflatten(2, shape).permute(2, 0, 1, 3, 4)
    folded = query.flatten(2, 3)  # [rows, key heads, queries x length, size]
    keys, values = (tensor[part.gather].transpose(1, 2) for tensor in stored)
    mask = seen[:, None, None].expand(-1, -1, query.shape[2], -1, -1).flatten(2, 3)
    scale, softcap = scores
    if softcap is None:
        answer = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale)
    else:
        answer = _softcapped(folded, keys, values, mask, scale=scale, softcap=softcap)
    return answer.unflatten(2, (query.shape[2], part.length)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)


def _softcapped(query: Any, keys: Any, values: Any, mask: Any, *, scale: float, softcap: float) -> Any:
    capped = torch.tanh(query @ keys.transpose(-1, -2) * scale / softcap) * softcap
    weights = capped.masked_fill(~mask, float("-inf")).softmax(dim=-1, dtype=torch.float32)
    return weights.to(query.dtype) @ values


AttentionInterface.register(NAME, paged_attention)
