"""Estimates how long a schema takes to compile, and at every token of an answer. Measured with xgrammar 0.2.8.

The compile cost is counted in steps of about 0.04 s for a vocabulary of 128,000 tokens. A step is one state of the
grammar in which nearly every token must be tested, such as inside a string of limited length. Keywords that are not
counted here take almost no time.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

MAX_COMPILE_COST = 512
# The states of a string of limited length are shared beyond this length.
MOST_OF_A_STRING = 192
OF_A_URI = 2
# With this many alternatives that stay possible together, every token of an answer takes about 0.05 s.
MAX_ALTERNATIVES = 64
RANGES = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def compile_cost_of(parts: Iterable[dict[str, Any]]) -> int:
    """Return the cost of all parts of a schema. Strings with the same lengths are compiled once."""
    pairs: set[tuple[int, int]] = set()
    found = 0
    for part in parts:
        if "minLength" in part or "maxLength" in part:
            pairs.add((part.get("minLength", 0), part.get("maxLength", 0)))
        found += OF_A_URI * (part.get("format") == "uri") + bool(RANGES & part.keys()) + _open_ends(part)
    return found + sum(min(max(pair), MOST_OF_A_STRING) for pair in pairs)


def _open_ends(part: dict[str, Any]) -> int:
    """Count the optional properties of an object that allows others: any other name may follow each of them."""
    if part.get("additionalProperties", False) is False:
        return 0
    return len(part.get("properties", {}).keys() - set(part.get("required", ())))


def alternatives_of(parts: Iterable[dict[str, Any]]) -> int:
    """Count the alternatives that begin alike, over all lists: an answer may become any of them."""
    return sum(_alternatives(part.get(word, ())) for part in parts for word in ("anyOf", "oneOf"))


def _alternatives(alternatives: Iterable[dict[str, Any]]) -> int:
    kinds = Counter(_kind(each) for each in alternatives if not {"const", "enum"} & each.keys())
    return sum(count for count in kinds.values() if count > 1)


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    return kind if isinstance(kind, str) else "any"
