"""Public chat formats with tiny tokenizers, to hold loss masks against."""

from tests.chat_formats.chat_format import ChatFormat
from tests.chat_formats.published import FORMATS
from tests.chat_formats.tokenizer import make_tokenizer

__all__ = ["FORMATS", "ChatFormat", "make_tokenizer"]
