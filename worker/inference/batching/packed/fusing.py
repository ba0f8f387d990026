"""Replaces layers that transformers computes in many small operations by one kernel each, if the results are the same.

A decode step of a small model is limited by the number of its kernels, not by what they compute.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import rms_norm

ROTARY = "apply_rotary_pos_emb"  # a function in the transformers module that defines a model
TRIED_TOKENS = 4
# The relative difference that rounding explains, for the dtypes that models are served in.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
Rotate = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def fuse_norms(model: Any) -> Callable[[], None]:
    """Replace the RMS norms of a model on a GPU. Returns a function that restores them."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    fused = [] if model.device.type != "cuda" else [module for module in norms if _fuse(module)]

    def take_apart() -> None:
        for module in fused:
            del module.forward

    return take_apart


def _fuse(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None or epsilon is None or weight.dtype not in TOLERANCE:
        return False
    ours = partial(rms_norm, normalized_shape=weight.shape, weight=weight, eps=epsilon)
    tried = _numbers(weight, TRIED_TOKENS, *weight.shape)
    with torch.inference_mode():
        if not _are_close(ours(tried), module(tried)):
            return False
    module.forward = ours
    return True


def fuse_rotary(model: Any, rotate: Rotate) -> None:
    """Let models of this architecture use `rotate` for the shapes that it supports, and their own code for all others.

    The change is permanent and applies to the whole process; the results are the same.
    """
    home = sys.modules[type(model).__module__]
    usual = getattr(home, ROTARY, None)
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if usual is None or hasattr(usual, "usual") or model.dtype not in TOLERANCE:
        return
    shape = (config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    query, key, cosine, sine = (
        _numbers(model, 1, *rows, TRIED_TOKENS, size) for rows in ([shape[0]], [shape[1]], [], [])
    )
    try:
        pairs = zip(rotate(query, key, cosine, sine), usual(query, key, cosine, sine), strict=True)
    except (TypeError, ValueError, RuntimeError):
        return
    if all(_are_close(ours, theirs) for ours, theirs in pairs):
        setattr(home, ROTARY, _choosing(usual, rotate))


def _numbers(like: Any, *shape: int) -> Any:
    """Random numbers, drawn on the host: a GPU's generator cannot be used while a graph is recorded."""
    return torch.randn(*shape).to(like.device, like.dtype)


def _choosing(usual: Any, rotate: Rotate) -> Any:
    def apply(query: Any, key: Any, cosine: Any, sine: Any, *others: Any, **named: Any) -> tuple[Any, Any]:
        is_ours = query.is_cuda and query.shape[0] == 1 and not others and not named
        if is_ours and cosine.shape == (1, query.shape[2], query.shape[3]) == sine.shape and _is_flat(query, key):
            return rotate(query, key, cosine, sine)
        answer: tuple[Any, Any] = usual(query, key, cosine, sine, *others, **named)
        return answer

    apply.usual = usual  # type: ignore[attr-defined]
    return apply


def _is_flat(*tensors: Any) -> bool:
    return all(tensor.stride(-1) == 1 for tensor in tensors)


def _are_close(ours: Any, theirs: Any) -> bool:
    wanted = theirs.float()
    return bool(((ours.float() - wanted).norm() <= TOLERANCE[theirs.dtype] * wanted.norm()).item())
