"""Constrains answers to JSON, or to one JSON schema, with xgrammar."""

import asyncio
import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from typing import Any, TypeAlias

import torch
import xgrammar
from starlette.concurrency import run_in_threadpool

from app.contracts.answers import ResponseFormat, SchemaFormat
from app.contracts.generation import EngineError
from app.contracts.schemas import compile_cost
from worker.inference.engine import Refusal, Walk
from worker.inference.text.schema_child import Unkept, compile_schema, compiler_for, rules_of
from worker.inference.text.schema_compiler import SchemaCompilerPool

# Limits over all tokenizers. One grammar has at most `schema_child.MOST_GRAMMAR_BYTES`.
KEPT_FORMATS = 64
KEPT_BYTES = 2**28
# A schema of at most this `compile_cost` compiles in two seconds with a vocabulary of 128,000 tokens, which is faster
# than starting a process.
QUICK_COST = 40
BITS = 32
ANY_OBJECT: dict[str, Any] = {"type": "object"}
FIELD = "response_format"
CANNOT = (422, "response_format_not_possible")
COMPILER_POOL = SchemaCompilerPool()
log = logging.getLogger(__name__)
Made: TypeAlias = "Future[JsonGrammar | EngineError]"


class GrammarCache:
    """Grammars by the content of tokenizer and schema, shared by all adapters of a base.

    The least recently used grammars are dropped if there are too many or they take too many bytes.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, str], Made] = OrderedDict()

    def find(self, tokenizer: str, schema: str, make: Callable[[Made], None]) -> Made:
        """The future of a grammar. If it is not cached, `make` is called and must fill the new future.

        A schema is compiled once for many requests. A refusal is cached too if the schema is the reason.
        """
        with self._lock:
            found = self._made.get((tokenizer, schema))
            if found is not None and not _may_be_tried_again(found):
                self._made.move_to_end((tokenizer, schema))
                return found
            made = self._made[tokenizer, schema] = Future()
            self._made.move_to_end((tokenizer, schema))
            while len(self._made) > 1 and (len(self._made) > KEPT_FORMATS or self._bytes() > self._most_bytes):
                self._made.popitem(last=False)
        make(made)
        return made

    def _bytes(self) -> int:
        found = [made.result() for made in self._made.values() if made.done()]
        return sum(grammar.nbytes for grammar in found if isinstance(grammar, JsonGrammar))


GRAMMARS = GrammarCache()


class GrammarMaker:
    """Makes the grammars of one tokenizer, each once. An answer may end with one of `eos_ids` where its grammar is
    complete.
    """

    def __init__(
        self,
        tokenizer: Any,
        eos_ids: frozenset[int],
        schema_compiler: SchemaCompilerPool = COMPILER_POOL,
        cache: GrammarCache = GRAMMARS,
    ) -> None:
        self._schema_compiler = schema_compiler
        self._cache = cache
        self._has_end = bool(eos_ids)
        if self._has_end:
            self._info = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=len(tokenizer), stop_token_ids=sorted(eos_ids)
            )
            self._compiler = compiler_for(self._info)
            self._tokenizer = self._info.serialize_json()
            self._sha256 = hashlib.sha256(self._tokenizer.encode()).hexdigest()

    async def grammar_of(self, response_format: ResponseFormat) -> "JsonGrammar | None":
        """The grammar of a format, or None for free text. A slow one is compiled in another process, while the engine
        answers.

        Raises Refusal 422 `response_format_not_possible` if the schema cannot be enforced, 429 or 503 if it cannot be
        compiled at present. If the caller is cancelled, compilation continues for other requests.
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
        text = json.dumps(schema)
        make = self._quickly if compile_cost(schema) <= QUICK_COST else self._apart
        return self._cache.find(self._sha256, text, lambda made: make(text, made))

    def _quickly(self, schema: str, made: Made) -> None:
        try:
            made.set_result(self._grammar(compile_schema(self._compiler, schema), schema))
        except Exception as error:  # noqa: BLE001  the waiting requests must get the error
            made.set_result(_refusal(error))

    def _apart(self, schema: str, made: Made) -> None:
        def finish(compiled: "Future[str]") -> None:
            try:
                grammar = xgrammar.CompiledGrammar.deserialize_json(compiled.result(), self._info)
                made.set_result(self._grammar(grammar, schema))
            except Exception as error:  # noqa: BLE001  the waiting requests must get the error
                made.set_result(_refusal(error))

        try:
            self._schema_compiler.put(self._tokenizer, schema).add_done_callback(finish)
        except Refusal as full:
            made.set_result(full.error)

    def _grammar(self, compiled: Any, schema: str) -> "JsonGrammar":
        return JsonGrammar(compiled, self._info.vocab_size, schema)


class JsonGrammar:
    """A compiled grammar. It is immutable and may be shared."""

    def __init__(self, compiled: Any, vocabulary: int, schema: str) -> None:
        self._compiled = compiled
        self._vocabulary = vocabulary
        self._schema = schema

    @property
    def nbytes(self) -> int:
        return int(self._compiled.memory_size_bytes)

    @cached_property
    def written(self) -> str:
        """The grammar in xgrammar's EBNF, for an engine in another process."""
        return rules_of(self._schema)

    def begin(self) -> Walk:
        return JsonWalk(xgrammar.GrammarMatcher(self._compiled), self._vocabulary)


class JsonWalk:
    """The position of one answer in a grammar, over `vocabulary` tokens."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def restrict(self, scores: Any) -> Any:
        """Also forbids ids beyond the tokenizer's vocabulary: a model may have more scores than the tokenizer has
        tokens.
        """
        if self._matcher.is_terminated():
            return torch.full_like(scores, -torch.inf)
        words = xgrammar.allocate_token_bitmask(1, self._vocabulary)
        self._matcher.fill_next_token_bitmask(words)
        bits = (words.unsqueeze(-1) >> torch.arange(BITS, dtype=torch.int32)) & 1
        allowed = bits.flatten().bool()[: self._vocabulary]
        mask = torch.zeros(scores.shape[-1], dtype=torch.bool)
        known = min(self._vocabulary, len(mask))
        mask[:known] = allowed[:known]
        return scores.masked_fill(~mask.to(scores.device), -torch.inf)

    def accept(self, token: int) -> None:
        if not self._matcher.is_terminated() and not self._matcher.accept_token(token):
            raise RuntimeError(f"the grammar rejects the token {token}, which it had allowed")


def _refusal(error: Exception) -> EngineError:
    """The error for the requests that wait for the grammar."""
    if isinstance(error, Unkept):
        message = f"response_format: this schema cannot be enforced: {error}"
        return EngineError(status=CANNOT[0], code=CANNOT[1], message=message, param=FIELD)
    if isinstance(error, Refusal):
        return error.error
    log.error("a schema could not be compiled", exc_info=error)
    return EngineError(
        status=500, code="engine_failed", message="the schema could not be compiled; see the engine's log"
    )


def _may_be_tried_again(made: Made) -> bool:
    """Whether it failed for another reason than the schema."""
    found = made.result() if made.done() else None
    return isinstance(found, EngineError) and found.status != CANNOT[0]
