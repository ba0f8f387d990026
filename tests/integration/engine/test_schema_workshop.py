"""Schemas that take long are compiled apart: once, in turn, within bounds; and nobody else waits for them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xgrammar

from app.contracts.answers import JsonSchema, SchemaFormat
from app.contracts.generation import EngineError
from app.contracts.schemas import compile_cost
from tests.integration.engine.model_caches import ServedModel
from tests.support.waiting import wait_for
from worker.inference.engine import Refusal
from worker.inference.text.grammar import QUICK_COST, GrammarCache, GrammarMaker
from worker.inference.text.language import load_language
from worker.inference.text.schema_child import MOST_GRAMMAR_BYTES, Unkept, compile_schema, compiler_for
from worker.inference.text.schema_compiler import MOST_SECONDS, SchemaCompilerPool, compile_apart

SLOW: dict[str, Any] = {"type": "string", "maxLength": QUICK_COST + 1}
QUICK: dict[str, Any] = {"type": "string", "maxLength": 3}
# No client may send a pattern: this one takes minutes.
ENDLESS = '{"type": "string", "pattern": "^(([a-z]?){100}){100}$"}'
SECONDS = 120.0


@pytest.fixture(scope="module")
def tokenizer(served_model: ServedModel) -> Any:
    return load_language(served_model.base.folder).renderer.tokenizer


@pytest.fixture(scope="module")
def info(tokenizer: Any) -> Any:
    ends = [tokenizer.eos_token_id]
    return xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer), stop_token_ids=ends)


@pytest.fixture
def maker(tokenizer: Any) -> GrammarMaker:
    return GrammarMaker(
        tokenizer, frozenset({tokenizer.eos_token_id}), SchemaCompilerPool(most_waiting=1), GrammarCache()
    )


def a_format(schema: dict[str, Any]) -> SchemaFormat:
    return SchemaFormat(type="json_schema", json_schema=JsonSchema.model_validate({"schema": schema}))


def test_a_slow_schema_is_made_once_while_a_quick_one_passes_it(maker: GrammarMaker, tokenizer: Any) -> None:
    async def ask() -> tuple[list[Any], bool]:
        slow = [asyncio.create_task(maker.grammar_of(a_format(SLOW))) for _ in range(8)]
        await maker.grammar_of(a_format(QUICK))
        was_first = not any(task.done() for task in slow)
        return await asyncio.gather(*slow), was_first

    grammars, quick_was_first = asyncio.run(ask())

    assert compile_cost(SLOW) > QUICK_COST >= compile_cost(QUICK)
    assert quick_was_first
    assert len(set(map(id, grammars))) == 1
    assert holds(grammars[0], tokenizer, '"' + "a" * SLOW["maxLength"] + '"')
    assert not holds(grammars[0], tokenizer, '"' + "a" * (SLOW["maxLength"] + 1) + '"')


def holds(grammar: Any, tokenizer: Any, text: str) -> bool:
    walk = grammar.begin()
    try:
        for token in tokenizer(text)["input_ids"]:
            walk.accept(token)
    except RuntimeError:
        return False
    return True


def test_who_finds_the_queue_full_is_told_to_come_again(maker: GrammarMaker) -> None:
    schemas = [{"type": "string", "maxLength": 100 + place} for place in range(4)]

    async def ask() -> list[Any]:
        return await asyncio.gather(*(maker.grammar_of(a_format(one)) for one in schemas), return_exceptions=True)

    refused = [each.error for each in asyncio.run(ask()) if isinstance(each, Refusal)]

    assert {(error.status, error.code) for error in refused} == {(429, "engine_busy")}
    assert 2 <= len(refused) <= 3


def test_adapters_of_one_tokenizer_share_what_one_of_them_had_made(tokenizer: Any) -> None:
    cache, ends = GrammarCache(), frozenset({tokenizer.eos_token_id})
    makers = [GrammarMaker(tokenizer, ends, cache=cache) for _ in range(2)]
    other = GrammarMaker(tokenizer, ends | {5}, cache=cache)

    first, second, third = (asyncio.run(maker.grammar_of(a_format(QUICK))) for maker in (*makers, other))

    assert first is second is not third


def test_grammars_are_kept_up_to_a_number_of_bytes(tokenizer: Any) -> None:
    maker = GrammarMaker(tokenizer, frozenset({tokenizer.eos_token_id}), cache=GrammarCache(most_bytes=1))

    first, _, again = (asyncio.run(maker.grammar_of(a_format(schema))) for schema in (QUICK, {"type": "null"}, QUICK))

    assert first is not again


@pytest.mark.parametrize(("status", "times"), [(422, 1), (429, 2), (503, 2)])
def test_what_is_the_schemas_fault_is_kept_and_all_else_tried_again(status: int, times: int) -> None:
    cache, tried = GrammarCache(), []
    error = EngineError(status=status, code="x", message="x")

    for _ in range(2):
        cache.find("tokenizer", "schema", lambda made: tried.append(made) or made.set_result(error))  # type: ignore[func-returns-value]

    assert len(tried) == times


def test_no_schema_takes_more_than_ten_seconds_of_computing() -> None:
    assert MOST_SECONDS <= 10


def test_a_schema_that_takes_too_long_is_ended_and_refused(info: Any) -> None:
    with pytest.raises(Unkept, match="more than 1 seconds of CPU time"):
        compile_apart(info.serialize_json(), ENDLESS, 1)


def test_a_grammar_that_is_too_large_is_refused(info: Any) -> None:
    words = [{"type": "string", "enum": [f"{place}-{word}" * 200 for word in range(40)]} for place in range(8)]
    schema = json.dumps({"type": "array", "prefixItems": words})

    with pytest.raises(Unkept, match=f"at most {MOST_GRAMMAR_BYTES >> 20} are kept"):
        compile_schema(compiler_for(info), schema)


def test_a_child_that_fails_is_not_the_schemas_fault() -> None:
    with pytest.raises(Refusal) as refusal:
        compile_apart("{}", "{}", 9)

    assert (refusal.value.error.status, refusal.value.error.code) == (503, "engine_unavailable")


@pytest.fixture
def compiling(info: Any, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has an endless schema compiled."""
    path = tmp_path / "tokenizer.json"
    path.write_text(info.serialize_json())
    call = f"compile_apart(open({str(path)!r}).read(), {ENDLESS!r}, 1000)"
    code = f"from worker.inference.text.schema_compiler import *; {call}"
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code])
    yield process
    process.kill()
    process.wait()


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if is_bound(int(child))]


def is_bound(pid: int) -> bool:
    """Whether its memory is bounded, as it is from the moment at which the work begins."""
    return "Max address space         unlimited" not in Path(f"/proc/{pid}/limits").read_text()


def test_a_child_ends_with_its_engine(compiling: subprocess.Popen[bytes]) -> None:
    (child,) = wait_for("the child is at work", lambda: children_of(compiling.pid), SECONDS)

    compiling.kill()
    compiling.wait()

    wait_for("the child is gone", lambda: not is_running(child))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
