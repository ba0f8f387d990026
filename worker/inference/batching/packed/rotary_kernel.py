"""Applies rotary positions to queries and keys in one Triton kernel instead of ten kernels of torch."""

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_heads(  # type: ignore[no-untyped-def]
    given, rotated, cosine, sine, token, angle, row, head_step,
    HEADS: tl.constexpr, HEADS_WIDTH: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Rotate all heads of one token."""
    head, depth = tl.arange(0, HEADS_WIDTH), tl.arange(0, WIDTH)
    is_depth = depth < HALF
    mask = (head < HEADS)[:, None] & is_depth[None, :]
    angles = token * angle + depth
    place = given + token * row + head[:, None] * head_step + depth[None, :]
    first = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(place + HALF, mask=mask, other=0.0).to(tl.float32)
    for half in tl.static_range(2):
        cos = tl.load(cosine + angles + half * HALF, mask=is_depth, other=0.0).to(tl.float32)[None, :]
        sin = tl.load(sine + angles + half * HALF, mask=is_depth, other=0.0).to(tl.float32)[None, :]
        result = first * cos - second * sin if half == 0 else second * cos + first * sin
        spot = rotated + (token * HEADS + head[:, None]) * (2 * HALF) + half * HALF + depth[None, :]
        tl.store(spot, result.to(rotated.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(  # type: ignore[no-untyped-def]
    query, key, rotated_query, rotated_key, cosine, sine, angle, query_row, query_head, key_row, key_head,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEADS_WIDTH: tl.constexpr, KEYS_WIDTH: tl.constexpr,
    HALF: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program (token, query or key)."""
    token = tl.program_id(0)
    if tl.program_id(1) == 0:
        _rotate_heads(
            query, rotated_query, cosine, sine, token, angle, query_row, query_head, HEADS, HEADS_WIDTH, HALF, WIDTH
        )
    else:
        _rotate_heads(
            key, rotated_key, cosine, sine, token, angle, key_row, key_head, KEY_HEADS, KEYS_WIDTH, HALF, WIDTH
        )


def rotate(query: Any, key: Any, cosine: Any, sine: Any) -> tuple[Any, Any]:
    """Llama's rotary positions of `query` and `key` [1, heads, tokens, size], with `cosine` and `sine` [1, tokens,
    size].
    """
    _, heads, tokens, size = query.shape
    key_heads = key.shape[1]
    rotated = torch.empty(tokens, heads, size, device=query.device, dtype=query.dtype)
    rotated_key = torch.empty(tokens, key_heads, size, device=key.device, dtype=key.dtype)
    _rotate[(tokens, 2)](
        query, key, rotated, rotated_key, cosine, sine, cosine.stride(1),
        query.stride(2), query.stride(1), key.stride(2), key.stride(1),
        HEADS=heads, KEY_HEADS=key_heads,
        HEADS_WIDTH=triton.next_power_of_2(heads), KEYS_WIDTH=triton.next_power_of_2(key_heads),
        HALF=size // 2, WIDTH=triton.next_power_of_2(size // 2),
    )  # fmt: skip
    return rotated.transpose(0, 1)[None], rotated_key.transpose(0, 1)[None]
