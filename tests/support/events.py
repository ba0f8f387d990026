"""What a process has written to its events file so far."""

import json


def has_step(text: str, step: int) -> bool:
    """Whether a step as late as this one was logged. The last line may be half written."""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return any(event["kind"] == "step" and event["step"] >= step for event in map(json.loads, lines))
