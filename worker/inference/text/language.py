"""Encodes and decodes for one model, with the renderer that training used and the model's own end tokens.

An adapter's bundle contains the tokenizer that it was trained with; the tokenizer of the base is used for base requests
only. Adapters with identical tokenizer files share one language, because each takes tens of megabytes.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool

from app.contracts.answers import ResponseFormat
from app.contracts.chat import ChatForm
from app.contracts.model_card import ADAPTER_CONFIG, GENERATION_CONFIG
from app.contracts.probe import PROBE
from app.contracts.records import Message
from worker.inference.engine import Refusal
from worker.inference.text.grammar import GrammarMaker, JsonGrammar
from worker.inference.text.token_text import bytes_of
from worker.rendering.refusal import RowRefused, TemplateRefused
from worker.rendering.renderer import AS_TRAINED, NoTokenizer, Renderer, load_renderer

# Files of a model or bundle that do not affect its language. No tokenizer file is as large as weights.
SILENT = (".safetensors", ".safetensors.index.json", ADAPTER_CONFIG, PROBE, "tunesmith.json", "README.md")
LARGEST_FILE_BYTES = 2**27


@dataclass(frozen=True)
class Language:
    """A renderer and the tokens that end an answer, from the tokenizer and the generation config of a folder."""

    renderer: Renderer
    eos_ids: frozenset[int]

    @cached_property
    def grammars(self) -> GrammarMaker:
        return GrammarMaker(self.renderer.tokenizer, self.eos_ids)

    async def grammar_of(self, response_format: ResponseFormat) -> JsonGrammar | None:
        """See `GrammarMaker.grammar_of`. The first call takes about a second."""
        maker = await run_in_threadpool(lambda: self.grammars)
        return await maker.grammar_of(response_format)

    @property
    def vocabulary(self) -> int:
        """The number of tokens; their ids begin at 0."""
        return len(self.renderer.tokenizer)

    def read_messages(
        self, messages: list[Message], tools: list[dict[str, Any]] | None = None, form: ChatForm = AS_TRAINED
    ) -> list[int]:
        """The ids of a chat up to the start of the assistant's message, the same as in training.

        Raises Refusal `no_chat_template`, `template_refused`, `special_tokens_in_content`, `unknown_template_variable`.
        """
        try:
            return self.renderer.prompt_ids(messages, tools, form)
        except RowRefused as refused:
            raise Refusal(422, refused.code, str(refused)[:500], refused.field or "messages") from None

    def read_prompt(self, prompt: str) -> list[int]:
        """The ids of raw text, after one BOS if the tokenizer uses one."""
        return self.renderer.text_ids(prompt)

    def write(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids, with or without special tokens, without any clean-up."""
        text: str = self.renderer.tokenizer.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text

    def spell(self, token: int) -> tuple[str, list[int] | None]:
        """A single token as text, also if it is special, and its bytes if the tokenizer reveals them."""
        text = str(self.renderer.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return text, bytes_of(self.renderer.tokenizer.convert_ids_to_tokens(token), text)


@lru_cache(maxsize=32)
def load_language(folder: Path, files: tuple[Any, ...] = ()) -> Language:  # noqa: ARG001  it is part of the cache's key
    """The language of a model or bundle folder. Raises NoTokenizer.

    `files` are the stamps of files that may change (`worker.base_files`); the files of a bundle never change.
    """
    digest = _digest_of(folder)
    language = _loaded.get(digest)
    if language is None:
        language = _loaded[digest] = _load(folder)
    return language


_loaded: WeakValueDictionary[str, Language] = WeakValueDictionary()


def _digest_of(folder: Path) -> str:
    """A digest of the names and contents of the files that define a language."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(SILENT)):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{size}\0".encode())
        digest.update(path.read_bytes() if size <= LARGEST_FILE_BYTES else b"")
    return digest.hexdigest()


def _load(folder: Path) -> Language:
    try:
        renderer = load_renderer(folder)
    except TemplateRefused as error:
        raise NoTokenizer(f"its chat template cannot be used: {error}") from None
    own = {renderer.tokenizer.eos_token_id} - {None}
    return Language(renderer, frozenset(own | _named_ends(folder)))


@lru_cache(maxsize=32)
def load_job_language(folder: Path) -> Language:
    """The language of a job's tokenizer folder, which never changes once a training has begun. Raises NoTokenizer.

    It ends answers as the bundle will: with the end token of the tokenizer, and those of its template.
    """
    language = load_language(folder)
    ends = language.renderer.tokenizer.convert_tokens_to_ids(list(language.renderer.end_tokens))
    return Language(language.renderer, language.eos_ids | frozenset(ends))


def _named_ends(folder: Path) -> set[int]:
    """The end tokens of `generation_config.json`, possibly none."""
    try:
        named = json.loads((folder / GENERATION_CONFIG).read_text(encoding="utf-8"))["eos_token_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {end for end in (named if isinstance(named, list) else [named]) if isinstance(end, int)}
