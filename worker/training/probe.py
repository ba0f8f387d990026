"""What the trained model says to a few fixed prompts, so that the engine can be asked whether it says the same.

Each step is a plain forward over all tokens before it: no cache, no padding, nothing that a kernel for generation does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel

from app.contracts.order import TrainingOrder
from app.contracts.probe import CANDIDATES, PROMPT_TOKENS, STEPS, Probe, Prompt, Step
from app.contracts.records import Message
from app.contracts.rows import INPUT_IDS
from app.contracts.variant import BaseVariant, variant_of
from worker.failures import SystemFault, UserError
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import Renderer, load_renderer
from worker.training.biases import Biases, answering_as_base

QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three numbers.",
    "Why is the sky blue?",
)
# As the engine tells it: JSON has no infinity.
IMPOSSIBLE = -9999.0
# From the finest to the coarsest.
PRECISIONS = ("float32", "float16", "bfloat16")


def take_probe(model: Any, order: TrainingOrder, rows: Dataset, resolved: dict[str, Any], biases: Biases) -> Probe:
    """Ask the trained model, and the base below its LoRA. `rows` are those that it was trained on, `biases` the base's.

    Raises UserError for a model whose scores are no finite numbers.
    """
    prompts = probe_prompts(load_renderer(order.tokenizer), rows[0][INPUT_IDS], resolved["model.max_seq_length"])
    has_base = isinstance(model, PeftModel) and order.spec.lora.loftq_config is None
    with _at_rest(model):
        taken = tuple(_follow(model, ids, biases if has_base else None) for ids in prompts)
        noise = fmean(chain.from_iterable(_noise(model, prompt) for prompt in taken))
    return Probe(
        dtype=coarsest(resolved),
        variant=_variant(model),
        quantised=resolved["model.load_in_4bit"] or resolved["model.load_in_8bit"],
        noise=noise,
        prompts=taken,
    )


def _variant(model: Any) -> BaseVariant | None:
    """What the trainer made of the base when it was loaded."""
    quantisation = getattr(model.config, "quantization_config", None)
    if quantisation is None:
        return None
    return variant_of(quantisation if isinstance(quantisation, dict) else quantisation.to_dict())


def probe_prompts(renderer: Renderer, row: list[int], max_tokens: int) -> list[list[int]]:
    """Token ids of the fixed questions, as the job's template asks them, and the beginning of a row.

    Each leaves room for all steps within `max_tokens`.
    """
    room = min(PROMPT_TOKENS, max_tokens - STEPS)
    asked = [_question_ids(renderer, question) for question in QUESTIONS]
    return [ids for ids in (*(ids[-room:] for ids in asked), row[:room]) if ids]


def coarsest(resolved: dict[str, Any]) -> str:
    """The dtype of the weights, or of the mixed precision around them, whichever is coarser."""
    mixed = [name for name, field in (("float16", "training.fp16"), ("bfloat16", "training.bf16")) if resolved[field]]
    return max((str(resolved["model.dtype"]), *mixed), key=PRECISIONS.index)


def _question_ids(renderer: Renderer, question: str) -> list[int]:
    """By the template where it takes a question alone, else as raw text."""
    if renderer.templates:
        try:
            return renderer.prompt_ids([Message(role="user", content=question)])
        except RowRefused:
            pass
    return renderer.text_ids(question)


def _follow(model: Any, prompt: list[int], biases: Biases | None) -> Prompt:
    """What the model says to a prompt, and its base with these biases."""
    tops: list[list[tuple[int, float]]] = []
    for _ in range(STEPS):
        best, places = _logprobs(model, _with_steps(prompt, tops))[-1].topk(CANDIDATES)
        tops.append(list(zip(places.tolist(), best.tolist(), strict=True)))
    base: list[tuple[float, ...] | None] = [None] * STEPS
    if biases is not None:
        with answering_as_base(model, biases):
            base = [*_read_at_once(model, prompt, tops)]
    steps = (Step(top=tuple(top), base=below) for top, below in zip(tops, base, strict=True))
    return Prompt(ids=tuple(prompt), steps=tuple(steps))


def _noise(model: Any, prompt: Prompt) -> list[float]:
    """How far a second reading is from the recorded one: rounding goes another way when all steps are read at once."""
    tops = [list(step.top) for step in prompt.steps]
    again = _read_at_once(model, list(prompt.ids), tops)
    return [
        abs(other - one)
        for top, others in zip(tops, again, strict=True)
        for (_, one), other in zip(top, others, strict=True)
    ]


def _read_at_once(
    model: Any, prompt: list[int], tops: Sequence[Sequence[tuple[int, float]]]
) -> list[tuple[float, ...]]:
    """The log-probabilities of the recorded tokens, for all steps from one forward."""
    rows = _logprobs(model, _with_steps(prompt, tops[:-1]))[-len(tops) :]
    return [tuple(row[[token for token, _ in top]].tolist()) for row, top in zip(rows, tops, strict=True)]


def _with_steps(prompt: list[int], tops: Sequence[Sequence[tuple[int, float]]]) -> list[int]:
    return [*prompt, *(top[0][0] for top in tops)]


def _logprobs(model: Any, ids: list[int]) -> Any:
    """[length of ids, vocabulary] in float32."""
    scores = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    if scores.dim() != 3 or scores.shape[:2] != (1, len(ids)):
        found = tuple(scores.shape)
        raise SystemFault("no_scores", f"the trained model gave scores of the shape {found} for {len(ids)} tokens")
    if not torch.isfinite(scores.max()):  # NaN and infinity; single tokens may be at minus infinity
        raise UserError(
            "model_not_finite",
            "the trained model gives scores that are no finite numbers",
            hint="a lower learning_rate, or bf16 in place of fp16, usually helps",
            param="training.learning_rate",
        )
    return scores[0].float().log_softmax(dim=-1).clamp(min=IMPOSSIBLE)


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """No dropout, no gradients; as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
