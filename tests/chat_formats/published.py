"""The public chat formats. Templates stand beside this file: in our own words, with the text of the published ones.

Each says what is learned of an answer, as read off the format by hand.
"""

from pathlib import Path
from typing import Any

from tests.chat_formats.chat_format import ChatFormat


def _a_format(name: str, **form: Any) -> ChatFormat:
    template = (Path(__file__).parent / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatFormat(name=name, template=template, **form)


def _sentencepiece(name: str, controls: tuple[str, ...] = (), **form: Any) -> ChatFormat:
    """A descendant of Llama 1: `<s>`, `</s>` and `<unk>`, the tokenizer puts BOS."""
    ends = {"bos": "<s>", "eos": "</s>", "pad": "<unk>", "unk": "<unk>", "adds_bos": True, "prefix_space": "first"}
    return _a_format(name, special_tokens=("<unk>", "<s>", "</s>", *controls), kind="metaspace", **{**ends, **form})


def _tekken(name: str, controls: tuple[str, ...], **form: Any) -> ChatFormat:
    ends = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "adds_bos": True}
    return _a_format(name, special_tokens=("<unk>", "<s>", "</s>", "<pad>", *controls), kind="bytes", **ends, **form)


def _gemma(name: str, **form: Any) -> ChatFormat:
    tokens = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    ends = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "unk": "<unk>", "adds_bos": True}
    answer = "{}<end_of_turn>"
    return _a_format(name, special_tokens=tokens, kind="metaspace", answer=answer, trims=True, **ends, **form)


def _llama3(name: str, controls: tuple[str, ...] = (), **form: Any) -> ChatFormat:
    begin, end, pad = "<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"
    headers = ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
    tokens = (begin, end, pad, *headers, *controls)
    ends = {"bos": begin, "eos": end, "pad": pad, "adds_bos": True, "trims": True}
    return _a_format(name, special_tokens=tokens, kind="bytes", answer="{}<|eot_id|>", **ends, **form)


def _qwen(name: str, plain_tokens: tuple[str, ...], **form: Any) -> ChatFormat:
    tokens, pad = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|endoftext|>"
    words = {"plain_tokens": plain_tokens, "supports_tools": True, "answer": "{}<|im_end|>"}
    return _a_format(name, special_tokens=tokens, kind="bytes", bos=None, eos="<|im_end|>", pad=pad, **words, **form)


def _deepseek(name: str) -> ChatFormat:
    begin, end, pad = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
    turns = ("<｜User｜>", "<｜Assistant｜>")
    tools = tuple(f"<｜tool▁{part}｜>" for part in ("outputs▁begin", "outputs▁end", "output▁begin", "output▁end"))
    ends = {"bos": begin, "eos": end, "pad": pad, "adds_bos": True, "plain_tokens": ("<think>", "</think>")}
    return _a_format(name, special_tokens=(begin, end, pad, *turns, *tools), kind="bytes", answer="{}" + end, **ends)


TOOLS_V3 = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
TOOL_CALL = ("<tool_call>", "</tool_call>")
THINKING = ("<think>", "</think>", "<tool_response>", "</tool_response>")

CHATML = _a_format(
    "chatml",
    special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    kind="bytes",
    bos=None,
    eos="<|im_end|>",
    pad="<|endoftext|>",
    answer="{}<|im_end|>",
)
LLAMA_2 = _sentencepiece("llama2", prefix_space="always", trims=True, answer=" {} </s>")
LLAMA_3 = _llama3("llama3")
LLAMA_31 = _llama3("llama31", ("<|python_tag|>", "<|eom_id|>"), supports_tools=True)
MISTRAL_V1 = _sentencepiece("mistral_v1", prefix_space="always", pad="</s>", answer=" {}</s>")
# A system message stands in the last question, and only as long as that is not answered: no chat to learn from has it.
MISTRAL_V3 = _sentencepiece(
    "mistral_v3",
    (*TOOLS_V3, "[/TOOL_RESULTS]"),
    supports_system=False,
    supports_tools=True,
    trims=True,
    answer=" {}</s>",
)
SYSTEM_PROMPT = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
MISTRAL_V7 = _sentencepiece("mistral_v7", SYSTEM_PROMPT, answer=" {}</s>")
MISTRAL_V7_TEKKEN = _tekken("mistral_v7_tekken", SYSTEM_PROMPT, answer="{}</s>")
GEMMA_2 = _gemma("gemma2", supports_system=False)
GEMMA_3 = _gemma("gemma3")
PHI_3 = _sentencepiece(
    "phi3",
    ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    eos="<|endoftext|>",
    pad="<|endoftext|>",
    adds_bos=False,
    swallows="behind",
    answer="{}<|end|>",
)
PHI_4 = _a_format(
    "phi4",
    special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|dummy_85|>"),
    kind="bytes",
    bos="<|endoftext|>",
    eos="<|im_end|>",
    pad="<|dummy_85|>",
    swallows="both",
    answer="{}<|im_end|>",
)
QWEN_25 = _qwen("qwen25", TOOL_CALL)
QWEN_3 = _qwen("qwen3", (*TOOL_CALL, *THINKING), last_answer="<think>\n\n</think>\n\n{}<|im_end|>")
ZEPHYR = _sentencepiece("zephyr", prefix_space="always", pad="</s>", answer="{}</s>")
ALPACA = _tekken("alpaca", (), answer="{}</s>")
DEEPSEEK_R1 = _deepseek("deepseek_r1")
GRANITE = _a_format(
    "granite",
    special_tokens=("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"),
    kind="bytes",
    bos="<|end_of_text|>",
    eos="<|end_of_text|>",
    pad="<|end_of_text|>",
    answer="{}<|end_of_text|>",
)
# Asks for thinking in the prompt and leaves it out of every answer: what it teaches is never asked for.
DEEPSEEK_R1_THINKING = _deepseek("deepseek_r1_thinking")

FORMATS = (
    CHATML,
    LLAMA_2,
    LLAMA_3,
    LLAMA_31,
    MISTRAL_V1,
    MISTRAL_V3,
    MISTRAL_V7,
    MISTRAL_V7_TEKKEN,
    GEMMA_2,
    GEMMA_3,
    PHI_3,
    PHI_4,
    QWEN_25,
    QWEN_3,
    ZEPHYR,
    ALPACA,
    DEEPSEEK_R1,
    GRANITE,
)
