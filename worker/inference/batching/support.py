"""Decides which models can answer in mixed batches: those whose scores equal those of transformers' own forward.

It is tested once per model, not read from a list of names: a prompt in two chunks and a decode step, through the paged
cache, are compared with one plain forward. Models that differ, raise or look at the whole batch are served one request
at a time. On a GPU the attention kernel is tested first, then attention in plain torch.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worker.inference.batching.attention import NAME, NotBatchable
from worker.inference.batching.cache import KeyValueCache
from worker.inference.batching.packed.fusing import fuse_norms, fuse_rotary
from worker.inference.batching.packed.packs import query_blocks
from worker.inference.batching.plan import Attending, BatchPlan, Kernels, run
from worker.inference.batching.rectangles import Rectangle, Rectangles

PROBE_TOKENS = 40
LAYER_TYPES = {"full_attention", "sliding_attention"}
BATCH_ROPES = {"dynamic", "longrope"}  # their angles depend on the longest sequence in the batch
# The relative difference of the scores (norm of the difference over norm) that rounding explains.
TOLERANCE = {torch.float32: 1e-3}
HALF_TOLERANCE = 5e-2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Support:
    """The result of the test: a small cache with the model's shapes, and the linear layers that get every token.

    `siblings`: for each of these layers the successive layers with the same input, including itself. `kernels` None:
    plain torch computes everything.
    """

    small_cache: KeyValueCache
    siblings: dict[str, tuple[str, ...]]
    kernels: Kernels | None


def try_batching(model: Any) -> Support:
    """Switch the model to paged attention. Raises NotBatchable, and restores the model then."""
    _check_config(model.config.get_text_config())
    tokens = _probe_tokens(model)
    usual = model.config._attn_implementation
    with torch.inference_mode():
        expected = model(input_ids=tokens, use_cache=False).logits[0, -2:].float()
    model.set_attn_implementation(NAME)
    take_apart = fuse_norms(model)
    try:
        if model.config._attn_implementation != NAME:
            raise NotBatchable("its attention cannot be replaced")
        return _try_ways(model, tokens, expected)
    except NotBatchable:
        take_apart()
        model.set_attn_implementation(usual)
        raise


def kernels_for(device: Any) -> Kernels | None:
    """The kernels for a GPU. Returns None if they cannot run on the device."""
    if device.type != "cuda":
        return None
    try:
        from worker.inference.batching.packed.lora_kernel import (  # Triton is not part of every torch
            RANKS,
            BlockProducts,
        )
        from worker.inference.batching.packed.paging import QueryBlocks
        from worker.inference.batching.packed.rotary_kernel import rotate
    except ImportError:
        return None
    return Kernels(QueryBlocks, BlockProducts, RANKS, rotate)


def _try_ways(model: Any, tokens: Any, expected: Any) -> Support:
    kernels = kernels_for(model.device)
    if kernels is not None:
        try:
            fuse_rotary(model, kernels.rotate)
            return _try(model, tokens, expected, kernels)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # noqa: BLE001  Triton's compiler raises any type; plain torch is tried next
            log.warning("the attention kernel does not fit this model or GPU, plain torch is tried: %s", error)
    try:
        return _try(model, tokens, expected, None)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise NotBatchable(f"a batched forward failed ({type(error).__name__}: {error})") from error


def _check_config(config: Any) -> None:
    types = set(getattr(config, "layer_types", None) or ())
    if types - LAYER_TYPES:
        raise NotBatchable(f"it has layers of the type {sorted(types - LAYER_TYPES)[0]}")
    for name in ("attention_chunk_size", "is_encoder_decoder", "num_kv_shared_layers"):
        if getattr(config, name, None):
            raise NotBatchable(f"its config has {name}")
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = [ropes.get("rope_type"), *(one.get("rope_type") for one in ropes.values() if isinstance(one, dict))]
    unfit = next((kind for kind in kinds if kind in BATCH_ROPES), None)
    if unfit is not None:
        raise NotBatchable(f"its {unfit} positions depend on the other requests of a batch")


def _probe_tokens(model: Any) -> Any:
    config = model.config.get_text_config()
    count = min(PROBE_TOKENS, getattr(config, "max_position_embeddings", None) or PROBE_TOKENS)
    if count < 4:
        raise NotBatchable(f"its context has only {count} tokens")
    return (torch.arange(count, device=model.device) * 7919 + 11).remainder(config.vocab_size)[None]


def _try(model: Any, tokens: Any, expected: Any, kernels: Kernels | None) -> Support:
    count = tokens.shape[1]
    cache, seen = KeyValueCache(count + 1), _Linears(model)
    with torch.inference_mode(), seen:
        ours = [
            _forward(model, tokens[0, first:last], first, cache, kernels)
            for first, last in ((0, count // 2), (count // 2, count - 1), (count - 1, count))
        ]
    found = torch.stack([ours[1], ours[2]]).float()
    difference = ((found - expected).norm() / expected.norm()).item()
    if not difference <= TOLERANCE.get(model.dtype, HALF_TOLERANCE):
        raise NotBatchable(f"its batched scores differ from its own by {difference:.1e}")
    if len(cache.layers) != model.config.get_text_config().num_hidden_layers:
        raise NotBatchable(f"only {len(cache.layers)} of its layers keep keys and values in the paged cache")
    _check_windows(model.config.get_text_config(), cache.windows)
    return Support(cache, seen.siblings(), kernels)


def _check_windows(config: Any, windows: dict[int, int | None]) -> None:
    """Check that sliding windows reach the attention: the test is shorter than a window, so its scores cannot
    show it.
    """
    types = getattr(config, "layer_types", None)
    is_used = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    expected = (config.num_hidden_layers if types is None else types.count("sliding_attention")) if is_used else 0
    found = sum(window is not None for window in windows.values())
    if expected != found:
        raise NotBatchable(f"{expected} of its layers have a window, but {found} pass it to their attention")


def _forward(model: Any, tokens: Any, first: int, cache: KeyValueCache, kernels: Kernels | None) -> Any:
    """Scores of the last of `tokens`, the first of which has the position `first`. Position p is stored in
    place p + 1.
    """
    last, device = first + len(tokens), tokens.device
    positions = torch.arange(first, last, device=device)
    places = torch.arange(1, last + 1, device=device)[None]
    if kernels is None:
        attending: Attending = Rectangles([Rectangle(0, positions[None], places)])
    else:
        blocks = torch.tensor(query_blocks(0, len(tokens), 0, first), device=device).t().contiguous()
        nobody = blocks[:, :0]
        attending = kernels.attending(places, 1, *((blocks, nobody) if len(tokens) == 1 else (nobody, blocks)))
    plan = BatchPlan(tokens, positions, positions + 1, torch.zeros_like(positions), cache, attending)
    return run(model, plan, torch.tensor([len(tokens) - 1], device=device))[0]


class _Linears:
    """Records the linear layers, including quantised ones, that get every token of the pack in every forward."""

    def __init__(self, model: Any) -> None:
        self._paths = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._model = model
        self._handles: list[Any] = []
        self._called: dict[str, int] = {}  # by path: the number of its input among the inputs of a forward
        self._inputs = 0
        self._last: Any = None

    def __enter__(self) -> "_Linears":
        root = self._model.register_forward_pre_hook(self._begin, with_kwargs=True)
        layers = [
            self._model.get_submodule(path).register_forward_pre_hook(self._note(path)) for path in sorted(self._paths)
        ]
        self._handles = [root, *layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._last = None

    def siblings(self) -> dict[str, tuple[str, ...]]:
        """For each layer the successive layers that had the same input tensor in the last forward."""
        groups: dict[int, list[str]] = {}
        for path, number in self._called.items():
            if path in self._paths:
                groups.setdefault(number, []).append(path)
        return {path: tuple(group) for group in groups.values() for path in group}

    def _begin(self, _: Any, __: Any, given: dict[str, Any]) -> None:
        self._tokens = given["input_ids"].shape[1]

    def _note(self, path: str) -> Any:
        def note(_: Any, given: tuple[Any, ...]) -> None:
            if given[0] is not self._last:
                self._last = given[0]
                self._inputs += 1
            self._called[path] = self._inputs
            if given[0].numel() != self._tokens * given[0].shape[-1]:
                self._paths.discard(path)

        return note
