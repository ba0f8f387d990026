"""The bytes of a single token, which may be part of a character."""

import re

from worker.inference.text.chat_text import REPLACEMENT

FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_of_letter() -> dict[str, int]:
    """Byte-level tokenizers write each byte as a character: printable ones as they are, others from U+0100 (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}


BYTES = _byte_of_letter()


def bytes_of(piece: str | None, text: str) -> list[int] | None:
    """The bytes of a token that is `piece` in the vocabulary and decodes to `text`. Returns None if unknown."""
    if REPLACEMENT not in text:
        return list(text.encode("utf-8"))
    fallback = FALLBACK.fullmatch(piece or "")
    if fallback is not None:
        return [int(fallback[1], 16)]
    letters = [BYTES.get(letter) for letter in piece or ""]
    known = [byte for byte in letters if byte is not None]
    return known if known and len(known) == len(letters) else None
