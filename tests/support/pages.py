"""The commands of README, and of the pages of docs/ that continue its walk."""

import re

from tests import ROOT

# In the order in which somebody who reads them would paste their commands, into one shell.
PAGES = ("README.md", "docs/jobs.md", "docs/datasets.md")
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"curl -s|^tunesmith ", re.MULTILINE)


def walk() -> list[str]:
    """The blocks that talk to a running service."""
    blocks = [block for page in PAGES for block in BLOCK.findall((ROOT / page).read_text())]
    return [block for block in blocks if COMMAND.search(block)]
