"""Answers that are JSON, or JSON of one schema: which tokens may come next, by xgrammar."""

import json
import re
import threading
from functools import lru_cache
from typing import Any

import torch
import xgrammar

from app.contracts.answers import ResponseFormat, SchemaFormat
from worker.inference.engine import Refusal, Walk

KEPT_FORMATS = 32
LONGEST_WHITESPACE = 16
BITS = 32
# JSON has these in no place; xgrammar 0.2 lets them into strings whose length is bounded.
CONTROL = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f]")
ANY_OBJECT: dict[str, Any] = {"type": "object"}


class GrammarMaker:
    """Makes the grammars of one tokenizer. An answer may end with `eos_ids` where its grammar is complete."""

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int]) -> None:
        self._lock = threading.Lock()
        self._has_end = bool(eos_ids)
        self._made = lru_cache(KEPT_FORMATS)(self._make)
        if self._has_end:
            info = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=len(tokenizer), stop_token_ids=sorted(eos_ids)
            )
            self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
            self._writable = torch.tensor([not CONTROL.search(piece) for piece in info.decoded_vocab])

    def make(self, response_format: ResponseFormat) -> "JsonGrammar | None":
        """The grammar of a format, None for free text; it may take seconds. Raises Refusal 422 `response_format`."""
        if response_format.type == "text":
            return None
        if not self._has_end:
            raise _refused("a model without an end token cannot end a JSON answer")
        schema = response_format.json_schema.definition if isinstance(response_format, SchemaFormat) else ANY_OBJECT
        with self._lock:  # one at a time: compiling a long one may keep a core busy for half a minute
            return self._made(json.dumps(schema))

    def _make(self, schema: str) -> "JsonGrammar":
        try:
            compiled = self._compiler.compile_json_schema(schema, max_whitespace_cnt=LONGEST_WHITESPACE)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0].rpartition("cc:")[2].partition(": ")[2]
            raise _refused(f"this schema cannot be kept: {reason[:300] or type(error).__name__}") from None
        return JsonGrammar(compiled, self._writable)


class JsonGrammar:
    """A compiled grammar. It is never changed, and may be shared."""

    def __init__(self, compiled: Any, writable: Any) -> None:
        self._compiled = compiled
        self._writable = writable

    def begin(self) -> Walk:
        return JsonWalk(xgrammar.GrammarMatcher(self._compiled), self._writable)


class JsonWalk:
    """The way of one answer; `writable` [vocabulary] has the tokens that may stand in JSON at all."""

    def __init__(self, matcher: Any, writable: Any) -> None:
        self._matcher = matcher
        self._writable = writable

    def restrict(self, scores: Any) -> Any:
        """Tokens that the tokenizer does not know, where a model has more scores than it has tokens, are out too."""
        if self._matcher.is_terminated():
            return torch.full_like(scores, -torch.inf)
        vocabulary = len(self._writable)
        words = xgrammar.allocate_token_bitmask(1, vocabulary)
        self._matcher.fill_next_token_bitmask(words)
        bits = (words.unsqueeze(-1) >> torch.arange(BITS, dtype=torch.int32)) & 1
        allowed = bits.flatten().bool()[:vocabulary] & self._writable
        mask = torch.zeros(scores.shape[-1], dtype=torch.bool)
        known = min(vocabulary, len(mask))
        mask[:known] = allowed[:known]
        return scores.masked_fill(~mask.to(scores.device), -torch.inf)

    def accept(self, token: int) -> None:
        if not self._matcher.is_terminated() and not self._matcher.accept_token(token):
            raise RuntimeError(f"the grammar does not take the token {token}, which it had allowed")


def _refused(reason: str) -> Refusal:
    return Refusal(422, "response_format_not_possible", f"response_format: {reason}", "response_format")
