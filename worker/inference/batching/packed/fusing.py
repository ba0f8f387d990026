"""Layers that transformers writes as many small operations, each in one kernel, wherever that gives the same numbers.

A decode step of a small model is bound by how many kernels it has, not by what they compute.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import rms_norm

ROTARY = "apply_rotary_pos_emb"  # of the module that defines a model, in transformers
TRIED_TOKENS = 4
# Relative difference that rounding explains, in the precisions that models are served in.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
Rotate = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def fuse_norms(model: Any) -> Callable[[], None]:
    """Replace the RMS norms of a model on a GPU; returns what gives it its own back."""
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
    """Let the code of this kind of model use `rotate` for what it was made for; anything else goes its old way.

    It is for the whole process and stays: what is computed does not change.
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
    """Drawn on the host: the dice of a GPU are nobody's while a graph is recorded."""
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
