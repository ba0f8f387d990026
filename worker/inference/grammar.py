"""Answers that are JSON, or JSON of one schema: which tokens may come next, by xgrammar."""

import asyncio
import json
import logging
import re
import threading
from collections import OrderedDict
from concurrent.futures import Future
from functools import cached_property
from typing import Any, TypeAlias

import torch
import xgrammar
from starlette.concurrency import run_in_threadpool

from app.contracts.answers import ResponseFormat, SchemaFormat
from app.contracts.generation import EngineError
from app.contracts.schemas import effort
from worker.inference.engine import Refusal, Walk
from worker.inference.schema_child import LONGEST_WHITESPACE, Unkept, compile_schema, compiler_for
from worker.inference.workshop import Workshop

KEPT_FORMATS = 32
# Up to so much `effort` a schema takes two seconds at most, of a vocabulary of 128,000 tokens: less than a process.
QUICK_EFFORT = 40
BITS = 32
# JSON has these in no place; xgrammar 0.2 lets them into strings whose length is bounded.
CONTROL = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f]")
ANY_OBJECT: dict[str, Any] = {"type": "object"}
FIELD = "response_format"
CANNOT = (422, "response_format_not_possible")
WORKSHOP = Workshop()
log = logging.getLogger(__name__)
Made: TypeAlias = "Future[JsonGrammar | EngineError]"
# A character of a string as xgrammar 0.2 writes it where the length is bounded, and without what no JSON has: control
# characters and halves of surrogates.
LOOSE_CHARACTER, CHARACTER = r"[^\"\\\r\n]", r"[^\"\\\0-\x1f\ud800-\udfff]"


class GrammarMaker:
    """Makes the grammars of one tokenizer, each once. An answer may end with `eos_ids` where its grammar is whole."""

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int], workshop: Workshop = WORKSHOP) -> None:
        self._lock = threading.Lock()
        self._workshop = workshop
        self._made: OrderedDict[str, Made] = OrderedDict()
        self._has_end = bool(eos_ids)
        if self._has_end:
            self._info = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=len(tokenizer), stop_token_ids=sorted(eos_ids)
            )
            self._compiler = compiler_for(self._info)
            self._writable = torch.tensor([not CONTROL.search(piece) for piece in self._info.decoded_vocab])

    async def grammar_of(self, response_format: ResponseFormat) -> "JsonGrammar | None":
        """The grammar of a format, None for free text. One that takes long is made elsewhere, while others answer.

        Raises Refusal 422 `response_format_not_possible` for what cannot be kept, 429 or 503 where it cannot be made
        at present. Whoever leaves meanwhile leaves it to those who ask for the same.
        """
        if response_format.type == "text":
            return None
        if not self._has_end:
            raise Refusal(*CANNOT, "response_format: a model without an end token cannot end a JSON answer", FIELD)
        schema = response_format.json_schema.definition if isinstance(response_format, SchemaFormat) else ANY_OBJECT
        made = await run_in_threadpool(self._find, schema)
        grammar: JsonGrammar | EngineError = await asyncio.shield(asyncio.wrap_future(made))
        if isinstance(grammar, EngineError):
            raise Refusal(grammar.status, grammar.code, grammar.message, grammar.param)
        return grammar

    def _find(self, schema: dict[str, Any]) -> Made:
        """Raises Refusal 429 where too many wait."""
        text = json.dumps(schema)
        with self._lock:  # the same schema in many requests is compiled once; a quick one takes a second
            made = self._made.get(text)
            if made is None or _may_be_tried_again(made):
                made = self._made[text] = self._quickly(text) if effort(schema) <= QUICK_EFFORT else self._apart(text)
            self._made.move_to_end(text)
            while len(self._made) > KEPT_FORMATS:
                self._made.popitem(last=False)
        return made

    def _quickly(self, schema: str) -> Made:
        made: Made = Future()
        try:
            made.set_result(JsonGrammar(compile_schema(self._compiler, schema), self._writable, schema))
        except Unkept as unkept:
            made.set_result(_refusal(unkept))
        return made

    def _apart(self, schema: str) -> Made:
        made: Made = Future()

        def finish(compiled: "Future[str]") -> None:
            try:
                grammar = xgrammar.CompiledGrammar.deserialize_json(compiled.result(), self._info)
                made.set_result(JsonGrammar(grammar, self._writable, schema))
            except Exception as error:  # noqa: BLE001  whoever waits for it has to hear of it
                made.set_result(_refusal(error))

        self._workshop.put(self._info.serialize_json(), schema).add_done_callback(finish)
        return made


class JsonGrammar:
    """A compiled grammar. It is never changed, and may be shared."""

    def __init__(self, compiled: Any, writable: Any, schema: str) -> None:
        self._compiled = compiled
        self._writable = writable
        self._schema = schema

    @cached_property
    def written(self) -> str:
        """The same in xgrammar's EBNF, for an engine in another process that walks by itself."""
        rules = str(xgrammar.Grammar.from_json_schema(self._schema, max_whitespace_cnt=LONGEST_WHITESPACE))
        return rules.replace(LOOSE_CHARACTER, CHARACTER)

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


def _refusal(error: Exception) -> EngineError:
    """What whoever asked for the grammar is told."""
    if isinstance(error, Unkept):
        message = f"response_format: this schema cannot be kept: {error}"
        return EngineError(status=CANNOT[0], code=CANNOT[1], message=message, param=FIELD)
    if isinstance(error, Refusal):
        return error.error
    log.error("a schema could not be compiled", exc_info=error)
    return EngineError(status=500, code="engine_failed", message="the schema could not be compiled; the log tells more")


def _may_be_tried_again(made: Made) -> bool:
    """It failed for another reason than the schema."""
    found = made.result() if made.done() else None
    return isinstance(found, EngineError) and found.status != CANNOT[0]
