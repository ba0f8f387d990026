"""Chooses the next token: penalties, bias, grammar, temperature, top_k, top_p, min_p, in this order.

The filters are those of transformers (`transformers.generation.logits_process`), so answers are those of `generate`.
Each answer has its own state: its neighbours in a batch make no difference.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from app.contracts.generation import IMPOSSIBLE, Sampling
from worker.inference.engine import Refusal, Token, TokenRequest, Walk

# The smallest values that the contract allows must not become 0 or infinity in float32.
TINY = torch.finfo(torch.float32).tiny
LARGEST = torch.finfo(torch.float32).max


def answer_ends(request: TokenRequest, model_ends: Collection[int]) -> frozenset[int]:
    """The tokens that end this answer: its stop tokens, and the end-of-sequence tokens unless they are ignored."""
    eos: frozenset[int] = frozenset() if request.sampling.ignore_eos else request.eos_ids | frozenset(model_ends)
    return eos | frozenset(request.sampling.stop_token_ids)


def is_plain_greedy(request: TokenRequest) -> bool:
    """Whether the answer is always the token with the highest score, so that an engine may choose for many at once."""
    is_greedy = request.sampling.temperature == 0
    return is_greedy and is_default_but_for(request, "temperature", "top_k", "top_p", "min_p")


def is_default_but_for(request: TokenRequest, *names: str) -> bool:
    """Whether all sampling fields that affect the choice of a token, except these, have their default."""
    others = {name: getattr(request.sampling, name) for name in (*_NOT_OF_THE_CHOICE, *names)}
    return request.grammar is None and request.sampling == Sampling(**others)


_NOT_OF_THE_CHOICE = ("max_new_tokens", "seed", "stop", "stop_token_ids", "ignore_eos", "use_cache")


class TokenChooser:
    """Chooses the tokens of one answer with its own random generator: on one device a seed gives one answer."""

    def __init__(
        self,
        sampling: Sampling,
        device: Any,
        *,
        ends: Collection[int] = (),
        walk: Walk | None = None,
        scored: Sequence[tuple[int, ...]] = (),
    ) -> None:
        """`ends` is the result of `answer_ends`; `walk` is the start of the request's grammar.

        `scored` lists for each step the tokens whose log-probabilities are returned.
        """
        self._sampling = sampling
        self._device = device
        self._ends = sorted(ends)
        self._walk = walk
        self._scored = scored
        self._written: Counter[int] = Counter()
        self._penalty = _penalty(sampling)
        self._filters = _filters(sampling)
        self._bias: Any = None
        self._rng = torch.Generator(device)
        if sampling.seed is None:
            self._rng.seed()
        else:
            self._rng.manual_seed(sampling.seed)

    @classmethod
    def of(cls, request: TokenRequest, model_ends: Collection[int], device: Any) -> "TokenChooser":
        """The chooser of one request, for a model with these end tokens."""
        walk = request.grammar.begin() if request.grammar is not None else None
        ends = answer_ends(request, model_ends)
        return cls(request.sampling, device, ends=ends, walk=walk, scored=request.scored)

    def choose(self, ids: Any, logits: Any) -> Token:
        """The next token after `ids` [1, length], from `logits` [1, vocabulary].

        Raises Refusal if the scores are not finite, or if no token may come next.
        """
        raw = logits.float()
        if not math.isfinite(raw.max().item()):  # NaN or infinity; single tokens may have minus infinity
            raise Refusal(500, "model_not_finite", "the model gave scores that are not finite numbers")
        scores = self._allowed(self._biased(self._penalised(ids, raw)))
        token = self._draw(ids, scores)
        self._written[token] += 1
        if self._walk is not None:
            self._walk.accept(token)
        return self._with_scores(token, raw)

    def _penalised(self, ids: Any, scores: Any) -> Any:
        if self._penalty is not None:
            scores = self._penalty(ids, scores).clamp(-LARGEST, LARGEST)
        presence, frequency = self._sampling.presence_penalty, self._sampling.frequency_penalty
        if not self._written or not (presence or frequency):
            return scores
        tokens = torch.tensor([list(self._written)], device=scores.device)
        lost = [presence + frequency * count for count in self._written.values()]
        return scores.scatter_add(-1, tokens, -scores.new_tensor([lost]))

    def _biased(self, scores: Any) -> Any:
        """Raises Refusal if a biased token is not in the model's vocabulary."""
        bias = self._sampling.logit_bias
        if not bias:
            return scores
        if self._bias is None:
            check_known(bias, scores.shape[-1], "logit_bias")
            self._bias = scores.new_zeros(1, scores.shape[-1])
            self._bias[0, list(bias)] = scores.new_tensor(list(bias.values()))
        return scores + self._bias

    def _allowed(self, scores: Any) -> Any:
        """The scores of the tokens that the grammar and min_tokens allow."""
        if self._walk is not None:
            scores = self._walk.restrict(scores)
        if self._written.total() < self._sampling.min_tokens:
            known = [token for token in self._ends if token < scores.shape[-1]]
            scores = scores.index_fill(-1, torch.tensor(known, dtype=torch.long, device=scores.device), -torch.inf)
        return scores

    def _draw(self, ids: Any, scores: Any) -> int:
        top, best = (part.item() for part in scores.max(dim=-1))
        if not math.isfinite(top):
            message = "no token of this model can come next under the response format and the limits asked for"
            raise Refusal(422, "nothing_can_follow", message, "response_format" if self._walk else "min_tokens")
        if self._sampling.temperature == 0:
            return int(best)
        scores = self._filters(ids, (scores - top) / max(self._sampling.temperature, TINY))
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self._rng).item())

    def _with_scores(self, token: int, raw: Any) -> Token:
        scored = self._scored[self._written.total() - 1 :][:1]
        wanted = self._sampling.logprobs
        if wanted is None and not scored:
            return Token(token)
        logprobs = raw.log_softmax(dim=-1)[0]
        if scored:
            check_has(scored[0], len(logprobs))
            places = torch.tensor(scored[0], device=raw.device)
            best = logprobs[places]
        else:
            best, places = logprobs.topk(min(wanted or 0, len(logprobs)))
        top = zip(places.tolist(), best.clamp(min=IMPOSSIBLE).tolist(), strict=True)
        return Token(token, max(logprobs[token].item(), IMPOSSIBLE), tuple(top))


def check_known(tokens: Collection[int], vocabulary: int, param: str) -> None:
    """Raises Refusal 422 if a token is not in the model's vocabulary."""
    unknown = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if unknown is not None:
        message = f"{param}: found token {unknown}, the model has the tokens 0 to {vocabulary - 1}"
        raise Refusal(422, "unknown_token", message, param)


def check_has(tokens: Collection[int], vocabulary: int) -> None:
    """Raises Refusal 409 if a token of a probe is not in the model's vocabulary."""
    unknown = next((token for token in tokens if token >= vocabulary), None)
    if unknown is not None:
        raise Refusal(
            409, "tokenizer_mismatch", f"the probe has token {unknown}, the model has only {vocabulary} tokens"
        )


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
