"""What is downloaded names its base by a name that others know, never by a path of this server."""

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

# The file of a bundle that says what the adapter was trained on, and how.
MANIFEST = "tunesmith.json"
TEXTS = (".json", ".md")
# The texts that name a base are short.
LARGEST_TEXT_BYTES = 1 << 20


@dataclass(frozen=True)
class PortableBase:
    """The folder of a base on this server, and the name that stands for it in a bundle."""

    path: str
    name: str

    @classmethod
    def of(cls, base: str, name: str) -> "PortableBase | None":
        """Returns None if the base is named by a hub id."""
        return cls(base, name) if base.startswith("/") else None

    @classmethod
    def of_manifest(cls, manifest: bytes) -> "PortableBase | None":
        """Read a bundle's manifest. Returns None if the bundle names no path of a server."""
        try:
            found = json.loads(manifest)
            return cls.of(str(found["base_model"]), str(found["spec"]["model"]["model_name"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def rename(self, text: bytes) -> bytes:
        """Return a text with the name in every place where it has the path, plain or as JSON writes it."""
        for is_ascii in (True, False):
            path, name = (json.dumps(one, ensure_ascii=is_ascii)[1:-1].encode() for one in (self.path, self.name))
            text = re.sub(rb"(?<![\w./-])%s(?![\w-])" % re.escape(path), name.replace(b"\\", rb"\\"), text)
        return text


def is_text(name: str, size: int) -> bool:
    """Whether a file of a bundle is a text that may name the base."""
    return PurePosixPath(name).suffix in TEXTS and size <= LARGEST_TEXT_BYTES
