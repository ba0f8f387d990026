"""What a public chat format is: its template, its control tokens, and how its tokenizer treats blanks."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["bytes", "metaspace"]
# What `rstrip` and `lstrip` of a token swallow: Python takes four separators more for blanks.
BLANKS = "".join(chr(code) for code in range(0x3001) if chr(code).isspace() and not 0x1C <= code <= 0x1F)


@dataclass(frozen=True)
class ChatFormat:
    """One model family's way to write a chat.

    `special_tokens` are all control tokens, with `bos`, `eos`, `pad` and `unk`. `answer` is what is learned of an
    answer `{}`, and `last_answer` of the last one where the template writes that differently.
    """

    name: str
    template: str
    special_tokens: tuple[str, ...]
    kind: Kind
    bos: str | None
    eos: str
    pad: str
    answer: str
    unk: str | None = None
    last_answer: str | None = None
    supports_system: bool = True
    supports_tools: bool = False
    # The tokenizer itself puts BOS before a text, as the template does.
    adds_bos: bool = False
    # Tokens of their own that are no control tokens: `<think>` is a word that a model says.
    plain_tokens: tuple[str, ...] = ()
    # Blanks beside control tokens that the tokenizer swallows: those behind, or those on both sides.
    swallows: Literal["none", "behind", "both"] = "none"
    # Where SentencePiece puts a blank of its own: nowhere, before the text, or before each piece of plain text.
    prefix_space: Literal["never", "first", "always"] = "never"
    # The template cuts blanks off both ends of a content.
    trims: bool = False

    @property
    def end(self) -> str:
        """The token that ends an answer."""
        return self.answer.partition("{}")[2].strip()

    def learned(self, answer: str, *, is_last: bool = False) -> str:
        """The text that carries loss for an answer, as its tokens are decoded."""
        form = self.last_answer if is_last and self.last_answer else self.answer
        return form.replace("{}", self.read(answer))

    def read(self, content: str) -> str:
        """What the tokens of a content are decoded to."""
        said = content.strip() if self.trims else content
        if self.swallows != "none":
            said = said.strip(BLANKS) if self.swallows == "both" else said.lstrip(BLANKS)
        return said.replace("▁", " ") if self.kind == "metaspace" else said
