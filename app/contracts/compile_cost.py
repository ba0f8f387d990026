"""How long a schema takes: to be prepared, and at every token of an answer. Measured with xgrammar 0.2.8.

Preparing is counted in steps of about 0.04 s for a vocabulary of 128,000 tokens. A step is one state of the grammar in
which nearly every token has to be looked at: the inside of a string that is counted. What is not here takes no time
worth the name.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

MAX_COMPILE_COST = 512
# From this length on the states of a counted string are shared.
MOST_OF_A_STRING = 192
OF_A_URI = 2
# Of as many alternatives that stay open together, every token of an answer takes some 0.05 s.
MAX_RIVALS = 64
RANGES = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def compile_cost_of(parts: Iterable[dict[str, Any]]) -> int:
    """The sum over all schemas of a schema; equal strings are prepared once."""
    pairs: set[tuple[int, int]] = set()
    found = 0
    for part in parts:
        if "minLength" in part or "maxLength" in part:
            pairs.add((part.get("minLength", 0), part.get("maxLength", 0)))
        found += OF_A_URI * (part.get("format") == "uri") + bool(RANGES & part.keys()) + _open_ends(part)
    return found + sum(min(max(pair), MOST_OF_A_STRING) for pair in pairs)


def _open_ends(part: dict[str, Any]) -> int:
    """Properties behind which any other name may come: those that may be left out, where others are allowed."""
    if part.get("additionalProperties", False) is False:
        return 0
    return len(part.get("properties", {}).keys() - set(part.get("required", ())))


def alternatives_of(parts: Iterable[dict[str, Any]]) -> int:
    """Alternatives of one list that begin alike, over all lists: an answer may be on the way to each of them."""
    return sum(_alternatives(part.get(word, ())) for part in parts for word in ("anyOf", "oneOf"))


def _alternatives(alternatives: Iterable[dict[str, Any]]) -> int:
    kinds = Counter(_kind(each) for each in alternatives if not {"const", "enum"} & each.keys())
    return sum(count for count in kinds.values() if count > 1)


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    return kind if isinstance(kind, str) else "any"
