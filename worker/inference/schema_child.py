"""`python -m worker.inference.schema_child`: compiles one schema and ends, by the kernel's hand if it takes too much.

Standard input has a `CompileTask` as JSON, standard output the grammar or why there is none.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import xgrammar

from app.contracts.base import Contract

# Address space beside what the libraries take themselves.
MOST_BYTES = 2 * 2**30
# Of the compiled grammar: the engine keeps some tens.
MOST_GRAMMAR_BYTES = 32 * 2**20
LONGEST_WHITESPACE = 16
LONGEST_REASON = 300
LOWEST_PRIORITY = 10
PR_SET_PDEATHSIG = 1
# A character of a string that is no escape: neither a control character nor half of a surrogate pair (RFC 8259).
CHARACTER = r"[^\"\\\0-\x1f\ud800-\udfff]"
HEX = "[0-9A-Fa-f]"
# An escaped character: half of a surrogate pair is none without its other half.
ESCAPED = (
    f'("u" [0-9A-CE-Fa-ce-f] {HEX} {HEX} {HEX}) | ("u" [Dd] [0-7] {HEX} {HEX}) | '
    f'("u" [Dd] [89ABab] {HEX} {HEX} "\\\\u" [Dd] [C-Fc-f] {HEX} {HEX})'
)
# What xgrammar 0.2 writes in their place, without a length, with one, and as an escape.
LOOSE = {
    r"[^\0-\x1f\"\\\r\n]": CHARACTER,
    r"[^\"\\\r\n]": CHARACTER,
    '("u" [A-Fa-f0-9] [A-Fa-f0-9] [A-Fa-f0-9] [A-Fa-f0-9])': ESCAPED,
}


class CompileTask(Contract):
    """Work to do: tokenizer and schema as text, and how many seconds of computing it may take."""

    tokenizer: str
    schema_text: str
    most_seconds: int


class Unkept(Exception):
    """A schema that cannot be kept; the message says why."""


def compiler_for(tokenizer: Any) -> Any:
    """A compiler for a tokenizer as xgrammar knows it."""
    return xgrammar.GrammarCompiler(tokenizer, max_threads=1, cache_enabled=False)


def rules_of(schema: str) -> str:
    """A schema in xgrammar's EBNF, its strings as JSON has them. Raises what xgrammar does.

    xgrammar itself lets halves of surrogate pairs into strings, and control characters into those of a bounded length.
    """
    rules = str(xgrammar.Grammar.from_json_schema(schema, max_whitespace_cnt=LONGEST_WHITESPACE))
    for loose, strict in LOOSE.items():
        rules = rules.replace(loose, strict)
    return rules


def compile_schema(compiler: Any, schema: str) -> Any:
    """The compiled grammar of a schema. Raises Unkept."""
    try:
        compiled = compiler.compile_grammar(rules_of(schema))
    except (RuntimeError, ValueError, MemoryError) as error:
        text = str(error).strip() or type(error).__name__
        reason = text.splitlines()[0].rpartition("cc:")[2].partition(": ")[2]
        raise Unkept(reason[:LONGEST_REASON] or type(error).__name__) from None
    if compiled.memory_size_bytes > MOST_GRAMMAR_BYTES:
        megabytes = compiled.memory_size_bytes >> 20
        raise Unkept(
            f"it takes {megabytes} MiB of memory, at most {MOST_GRAMMAR_BYTES >> 20} are kept: make it smaller"
        )
    return compiled


def main() -> None:
    piece = CompileTask.model_validate_json(sys.stdin.buffer.read())
    _bind(piece.most_seconds)
    info = xgrammar.TokenizerInfo.deserialize_json(piece.tokenizer)
    try:
        answer = {"grammar": compile_schema(compiler_for(info), piece.schema_text).serialize_json()}
    except Unkept as unkept:
        answer = {"reason": str(unkept)}
    json.dump(answer, sys.stdout)


def _bind(most_seconds: int) -> None:
    """End with the engine, behind whom it stands back, and within bounds."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(LOWEST_PRIORITY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = int(time.process_time()) + most_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main()
