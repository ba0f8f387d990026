"""The strings of an answer under a schema are those of JSON to the byte, in every place where there can be one."""

import asyncio
import json
from typing import Any

import pytest
import xgrammar

from app.contracts.answers import JsonSchema, SchemaFormat
from tests.integration.engine.model_caches import ServedModel
from worker.inference.text.language import load_language
from worker.inference.text.schema_child import LONGEST_WHITESPACE, compile_schema, compiler_for

END = 2
ANY = {"type": "string"}
SHORT = {"type": "string", "minLength": 1, "maxLength": 12}
LONG = {"type": "string", "minLength": 1}


@pytest.fixture(scope="module")
def info(served_model: ServedModel) -> Any:
    tokenizer = load_language(served_model.base.folder).renderer.tokenizer
    return xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer), stop_token_ids=[END])


@pytest.fixture(scope="module")
def compiler(info: Any) -> Any:
    return compiler_for(info)


def takes(compiled: Any, text: bytes) -> bool:
    matcher = xgrammar.GrammarMatcher(compiled)
    return matcher.accept_string(text) and matcher.accept_token(END)


NO_JSON = [
    b"\xed\xa0\x80",  # half of a surrogate pair, which is no UTF-8
    b"\xed\xb0\x80",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\x00",
    b"\x1f",
    b"\t",
    b"\n",
    b"\xff",
    b"\xc0\x80",
    rb"\ud800",
    rb"\uDC00",
    rb"\ud83dx",
    rb"\ud83d\n",
    rb"\ud83d\u0041",
    rb"\u12",
    rb"\x41",
    b'"',
    b"\\",
]
PLAIN = [b"ab", "é€😀".encode(), b"\xed\x9f\xbf", b"\xee\x80\x80", b"\x7f"]
ESCAPES = [rb"\n", rb"\"", rb"\\", rb"\u0041", rb"\ud7ff", rb"\uE000", rb"\ud83d\ude00", rb"\uD83D\uDE00x"]


@pytest.mark.parametrize("schema", [ANY, SHORT, LONG], ids=str)
def test_a_string_holds_what_every_parser_reads_and_nothing_else(compiler: Any, schema: dict[str, Any]) -> None:
    compiled = compile_schema(compiler, json.dumps(schema))

    assert [text for text in NO_JSON if takes(compiled, b'"' + text + b'"')] == []
    assert [text for text in PLAIN if not takes(compiled, b'"' + text + b'"')] == []


def test_escapes_are_written_where_no_length_is_counted(compiler: Any) -> None:
    compiled = compile_schema(compiler, json.dumps(ANY))

    assert [text for text in ESCAPES if not takes(compiled, b'"' + text + b'"')] == []


@pytest.mark.parametrize("place", [b'{"%s":1}', b'{"a":"%s"}', b'{"a":["%s"]}', b'{"a":{"b":"%s"}}'], ids=str)
def test_no_place_of_a_json_object_has_other_strings(compiler: Any, place: bytes) -> None:
    compiled = compile_schema(compiler, '{"type": "object"}')

    assert [text for text in NO_JSON if takes(compiled, place % text)] == []
    assert [text for text in PLAIN + ESCAPES if not takes(compiled, place % text)] == []


LOOKALIKES = ['[^"\\\r\n]', '("u" [A-Fa-f0-9] [A-Fa-f0-9] [A-Fa-f0-9] [A-Fa-f0-9])', '[^\0-\x1f"\\\r\n]']


@pytest.mark.parametrize("text", [*LOOKALIKES, 'é"\\\n😀'], ids=str)
def test_what_a_schema_says_word_by_word_stays_as_it_is(compiler: Any, text: str) -> None:
    schema = {"type": "object", "properties": {text: {"const": text}}, "required": [text]}
    compiled = compile_schema(compiler, json.dumps({**schema, "additionalProperties": False}))

    assert takes(compiled, json.dumps({text: text}, ensure_ascii=False).encode())


def test_an_engine_that_walks_by_itself_is_given_the_same_rules(served_model: ServedModel, compiler: Any) -> None:
    definition = JsonSchema.model_validate({"schema": ANY})
    asked = SchemaFormat(type="json_schema", json_schema=definition)
    grammar = asyncio.run(load_language(served_model.base.folder).grammar_of(asked))

    assert grammar is not None
    written = compiler.compile_grammar(grammar.written)
    assert not takes(written, rb'"\ud800"')
    assert takes(written, rb'"\ud83d\ude00"')


# Why `pattern` is refused: xgrammar 0.2 writes the characters of a pattern into the string as they are.
UNSAFE = [('^"$', b'"""'), ("^\\\\$", b'"\\"'), ("^\\t$", b'"\t"')]


@pytest.mark.parametrize(("pattern", "answer"), UNSAFE)
def test_a_pattern_would_let_into_a_string_what_ends_it(compiler: Any, pattern: str, answer: bytes) -> None:
    schema = json.dumps({"type": "string", "pattern": pattern})

    compiled = compiler.compile_json_schema(schema, max_whitespace_cnt=LONGEST_WHITESPACE)

    assert takes(compiled, answer)  # where this fails, `pattern` can be looked at again
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer)
