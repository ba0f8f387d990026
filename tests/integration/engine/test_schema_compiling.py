"""Schemas that take long are compiled apart: once, in turn, within bounds; and nobody else waits for them."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import xgrammar

from app.contracts.answers import JsonSchema, SchemaFormat
from app.contracts.generation import EngineError
from app.contracts.schemas import compile_cost
from tests.integration.engine.model_caches import ServedModel
from tests.support.waiting import wait_for
from worker.inference.engine import Refusal
from worker.inference.text import schema_compiler
from worker.inference.text.grammar import QUICK_COST, GrammarCache, GrammarMaker
from worker.inference.text.language import load_language
from worker.inference.text.schema_child import MOST_GRAMMAR_BYTES, Unkept, compile_schema, compiler_for
from worker.inference.text.schema_compiler import CHILD, MOST_SECONDS, SchemaCompilerPool

SLOW: dict[str, Any] = {"type": "string", "maxLength": QUICK_COST + 1}
SLOWER: dict[str, Any] = {"type": "string", "maxLength": QUICK_COST + 2}
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


@pytest.fixture(scope="module")
def pool() -> SchemaCompilerPool:
    """Its process is started anew where a test has ended it."""
    return SchemaCompilerPool(most_waiting=1, most_seconds=3)


def a_format(schema: dict[str, Any]) -> SchemaFormat:
    return SchemaFormat(type="json_schema", json_schema=JsonSchema.model_validate({"schema": schema}))


def test_behind_an_endless_schema_one_waits_while_quick_ones_pass_and_others_are_sent_away(
    pool: SchemaCompilerPool, tokenizer: Any, info: Any
) -> None:
    maker = GrammarMaker(tokenizer, frozenset({tokenizer.eos_token_id}), pool, GrammarCache())
    endless = pool.put(info.serialize_json(), ENDLESS)
    wait_for("it is at work", pool._waiting.empty)

    async def ask() -> tuple[list[Any], bool]:
        slow = [asyncio.create_task(maker.grammar_of(a_format(SLOW))) for _ in range(8)]
        await maker.grammar_of(a_format(QUICK))
        async with asyncio.timeout(SECONDS):
            while pool._waiting.empty():
                await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as refusal:
            await maker.grammar_of(a_format(SLOWER))
        assert (refusal.value.error.status, refusal.value.error.code) == (429, "engine_busy")
        was_first = not any(task.done() for task in slow)
        return await asyncio.gather(*slow), was_first

    grammars, quick_was_first = asyncio.run(ask())

    with pytest.raises(Unkept, match="more than 3 seconds of CPU time"):
        endless.result(SECONDS)
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


def test_a_child_that_fails_is_not_the_schemas_fault(pool: SchemaCompilerPool) -> None:
    with pytest.raises(Refusal) as refusal:
        pool.put("{}", "{}").result(SECONDS)

    assert (refusal.value.error.status, refusal.value.error.code) == (503, "engine_unavailable")


class Process:
    """A process that compiles nothing, and waits for a second schema before it answers the first."""

    started: ClassVar[list["Process"]] = []
    is_usable = True

    def __init__(self, *_: object, **__: object) -> None:
        self.is_closed, self.calls, self.go_on = False, 0, threading.Event()
        self.started.append(self)

    def call(self, _: object, __: float) -> tuple[dict[str, str], float]:
        self.calls += 1
        assert self.go_on.wait(SECONDS)
        return {"grammar": "g"}, 0.0

    def close(self) -> None:
        self.is_closed = True


def test_one_process_compiles_what_is_asked_for_until_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_compiler, "LimitedProcess", Process)
    monkeypatch.setattr(Process, "started", [])
    pool = SchemaCompilerPool(idle_seconds=0.1)

    made = [pool.put("{}", "{}") for _ in range(2)]
    wait_for("it is started", lambda: Process.started)[0].go_on.set()

    assert [each.result(SECONDS) for each in made] == ["g", "g"]
    (process,) = Process.started
    assert process.calls == 2
    wait_for("it is ended", lambda: process.is_closed)


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


def test_a_grammar_that_is_too_large_is_refused(info: Any) -> None:
    words = [{"type": "string", "enum": [f"{place}-{word}" * 200 for word in range(40)]} for place in range(8)]
    schema = json.dumps({"type": "array", "prefixItems": words})

    with pytest.raises(Unkept, match=f"at most {MOST_GRAMMAR_BYTES >> 20} are kept"):
        compile_schema(compiler_for(info), schema)


@pytest.fixture
def compiling(info: Any, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has an endless schema compiled."""
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"tokenizer": info.serialize_json(), "schema": ENDLESS}))
    code = "import json; from pathlib import Path; from worker.confinement.limited_process import *"
    call = f"LimitedProcess({CHILD!r}, Process.GRAMMAR).call(json.loads(Path({str(path)!r}).read_text()), 1000)"
    process = subprocess.Popen([sys.executable, "-c", f"{code}; {call}"])
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
