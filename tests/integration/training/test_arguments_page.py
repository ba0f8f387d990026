"""Every argument of the pinned libraries is a field of a job, or docs/arguments.md says why it is not."""

import dataclasses
import re

import pytest
from peft import LoraConfig
from trl import SFTConfig

from app.contracts.methods.sft import SftArgs
from app.contracts.spec import LoraSpec
from tests import ROOT


def listed(heading: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    page = (ROOT / "docs" / "arguments.md").read_text()
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize(("library", "group"), [(SFTConfig, SftArgs), (LoraConfig, LoraSpec)])
def test_every_argument_is_taken_or_explained(library: type, group: type) -> None:
    there = {field.name for field in dataclasses.fields(library)}
    taken = there & set(group.model_fields)  # type: ignore[attr-defined]
    names = listed(library.__name__)

    assert sorted(names) == sorted(set(names))
    assert set(names) & taken == set()
    assert set(names) | taken == there
