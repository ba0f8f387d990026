"""The files of others are those that the table beside them names."""

import hashlib
import re

from app.pages.rendering import STATIC

VENDORED = STATIC / "vendor"
ROW = re.compile(r"^\| ([\w.]+\.(?:js|css)) \|.*\| ([0-9a-f]{64}) \|$", re.MULTILINE)


def test_every_file_of_others_has_the_hash_of_the_table() -> None:
    listed = dict(ROW.findall((VENDORED / "README.md").read_text()))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDORED.glob("*.[jc]s*")}

    assert found == listed
