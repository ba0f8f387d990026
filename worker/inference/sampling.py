"""How the next token is chosen: repetition penalty, temperature, top_k, top_p, min_p, in this order.

The filters are transformers' own (`transformers.generation.logits_process`), so answers are those of `generate`.
"""

import math
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from app.contracts.generation import Sampling
from worker.inference.engine import Refusal

# Values as small as the contract allows must not become 0 or infinity in float32.
TINY = torch.finfo(torch.float32).tiny
LARGEST = torch.finfo(torch.float32).max


class TokenChooser:
    """Chooses the tokens of one answer. The dice are its own: one seed, one answer on the same device."""

    def __init__(self, sampling: Sampling, device: Any) -> None:
        self._temperature = sampling.temperature
        self._penalty = _penalty(sampling)
        self._filters = _filters(sampling)
        self._dice = torch.Generator(device)
        if sampling.seed is None:
            self._dice.seed()
        else:
            self._dice.manual_seed(sampling.seed)

    def choose(self, ids: Any, logits: Any) -> int:
        """The next token after `ids` [1, length], from `logits` [1, vocabulary].

        Raises Refusal when the model gave no finite numbers.
        """
        scores = logits.float()
        if self._penalty is not None:
            scores = self._penalty(ids, scores).clamp(-LARGEST, LARGEST)
        top, best = (part.item() for part in scores.max(dim=-1))
        if not math.isfinite(top):
            raise Refusal(500, "model_not_finite", "the model gave scores that are no finite numbers")
        if self._temperature == 0:
            return int(best)
        scores = self._filters(ids, (scores - top) / max(self._temperature, TINY))
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self._dice).item())


def _penalty(sampling: Sampling) -> Any | None:
    if sampling.repetition_penalty == 1.0:
        return None
    return RepetitionPenaltyLogitsProcessor(max(sampling.repetition_penalty, TINY))


def _filters(sampling: Sampling) -> Any:
    filters = LogitsProcessorList()
    if sampling.top_k > 0:
        filters.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        filters.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0.0:
        filters.append(MinPLogitsWarper(sampling.min_p))
    return filters
