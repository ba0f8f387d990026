"""`python -m worker.inference.text.schema_child`: compiles schemas for `worker.inference.text.schema_compiler` in a
limited process.
"""

import ctypes
import os
import signal
from typing import Any

import xgrammar

from worker.confinement.limited_child import serve

# The limit for one compiled grammar; the engine keeps some tens of them.
MOST_GRAMMAR_BYTES = 32 * 2**20
LONGEST_WHITESPACE = 16
LONGEST_REASON = 300
LOWEST_PRIORITY = 10
PR_SET_PDEATHSIG = 1
# A string character that needs no escape: neither a control character nor half of a surrogate pair (RFC 8259).
CHARACTER = r"[^\"\\\0-\x1f\ud800-\udfff]"
HEX = "[0-9A-Fa-f]"
# An escaped character; half of a surrogate pair needs its other half.
ESCAPED = (
    f'("u" [0-9A-CE-Fa-ce-f] {HEX} {HEX} {HEX}) | ("u" [Dd] [0-7] {HEX} {HEX}) | '
    f'("u" [Dd] [89ABab] {HEX} {HEX} "\\\\u" [Dd] [C-Fc-f] {HEX} {HEX})'
)
# What xgrammar 0.2 writes instead: without a length limit, with one, and for an escape.
LOOSE = {
    r"[^\0-\x1f\"\\\r\n]": CHARACTER,
    r"[^\"\\\r\n]": CHARACTER,
    '("u" [A-Fa-f0-9] [A-Fa-f0-9] [A-Fa-f0-9] [A-Fa-f0-9])': ESCAPED,
}


class Unkept(Exception):
    """A schema that cannot be enforced; the message says why."""


def compiler_for(tokenizer: Any) -> Any:
    """A compiler for a tokenizer, which is given as xgrammar's TokenizerInfo."""
    return xgrammar.GrammarCompiler(tokenizer, max_threads=1, cache_enabled=False)


def rules_of(schema: str) -> str:
    """A schema in xgrammar's EBNF, restricted to valid JSON strings. Raises the errors of xgrammar.

    xgrammar itself allows halves of surrogate pairs in strings, and control characters in those of limited length.
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


def answer(request: dict[str, str]) -> dict[str, str]:
    """The `grammar` of a `schema` for a `tokenizer`, all as text, or the `reason` why it cannot be compiled."""
    info = xgrammar.TokenizerInfo.deserialize_json(request["tokenizer"])
    try:
        return {"grammar": compile_schema(compiler_for(info), request["schema"]).serialize_json()}
    except Unkept as unkept:
        return {"reason": str(unkept)}


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it dies with the engine, also while it works
    os.nice(LOWEST_PRIORITY)
    serve(answer)


if __name__ == "__main__":
    main()
