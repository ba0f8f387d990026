"""How a refusal reads: `found X, expected Y` is one sentence."""

import re

# Words of pydantic, and of a rule that was put behind "expected" as it stands.
DOUBLED = re.compile(
    r"^(?:Input|Value|Expected|Assertion|Unable|should|be|have|not)\b|^[\w.]+ should\b|after validation|unable to parse"
)


def reads_well(expected: str) -> bool:
    """Whether what a refusal says behind "expected" says nothing twice."""
    return not DOUBLED.search(expected)
