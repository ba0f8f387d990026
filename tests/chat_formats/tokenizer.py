"""Tiny tokenizers of the two kinds that public models have, trained on a few sentences.

*bytes*: byte-level BPE as of GPT, Llama 3 and Qwen. *metaspace*: BPE over characters with `▁` for blanks and single
bytes for what the vocabulary lacks, as SentencePiece makes it for Llama 2, Mistral, Gemma and Phi-3.
"""

import json
from functools import lru_cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.chat_formats.chat_format import ChatFormat

MOST_TOKENS = 500
BLANK = "▁"
UNKNOWN = "<unk>"
# As published for Llama 3 and Qwen: line breaks make tokens of several, and cling to punctuation before them.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SENTENCES = (
    "You are a helpful assistant. The user asks, the assistant answers, and the system keeps quiet.",
    "### Instruction:\nWhat is two and two?\n\n### Response:\nIt is four.\n\n\nHi. Sure, it is 4. Bye!\n\n",
    "user\nHi.\nassistant\n\nHi there, what is it? Is it all right? I see.\n\nuser\n\n\nSee you.",
    '{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}',
)


def make_tokenizer(chat_format: ChatFormat) -> PreTrainedTokenizerFast:
    """The tokenizer of a format, with its template; a fresh object at every call."""
    named = {"bos_token": chat_format.bos, "eos_token": chat_format.eos, "pad_token": chat_format.pad}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(chat_format)),
        unk_token=chat_format.unk and _control(chat_format, chat_format.unk),
        additional_special_tokens=[_control(chat_format, token) for token in chat_format.special_tokens],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        **{name: _control(chat_format, token) for name, token in named.items() if token},
    )
    tokenizer.chat_template = chat_format.template
    return tokenizer


def _control(chat_format: ChatFormat, token: str) -> AddedToken:
    behind, before = chat_format.swallows != "none", chat_format.swallows == "both"
    return AddedToken(token, rstrip=behind, lstrip=before, normalized=False, special=True)


@lru_cache
def _backend(chat_format: ChatFormat) -> str:
    tokenizer = _byte_level() if chat_format.kind == "bytes" else _metaspace(chat_format)
    tokenizer.add_special_tokens([_control(chat_format, token) for token in chat_format.special_tokens])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in chat_format.plain_tokens])
    bos = chat_format.bos
    if chat_format.adds_bos and bos is not None:
        special = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=special)
    return tokenizer.to_str()


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = _trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _metaspace(chat_format: ChatFormat) -> Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="never")
    # Without line breaks, which Llama 2 and Mistral spell as a byte.
    learner.train_from_iterator([sentence.replace("\n", " ") for sentence in SENTENCES], _trainer())
    learned = json.loads(learner.to_str())["model"]

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: number for number, token in enumerate([UNKNOWN, *bytes_, *learned["vocab"]])}
    merges = [(left, right) for left, right in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=BLANK, prepend_scheme=chat_format.prefix_space, split=False
    )
    steps = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    own_blank = [] if chat_format.prefix_space == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([*steps, *own_blank])
    return tokenizer


def _trainer(initial_alphabet: list[str] | None = None) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=MOST_TOKENS, min_frequency=1, initial_alphabet=initial_alphabet or [], show_progress=False
    )
