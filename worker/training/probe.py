"""Records the trained model's outputs for a few prompts, so that the engine can check that it gives the same.

Each step is a plain forward pass over all earlier tokens: no cache, no padding, no kernel for generation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from app.contracts.generation import IMPOSSIBLE
from app.contracts.order import TrainingOrder
from app.contracts.probe import CANDIDATES, PROMPT_TOKENS, STEPS, Fit, Probe, ProbePrompt, ProbeStep, ProbeWeights
from app.contracts.rows import IGNORED, INPUT_IDS, LABELS
from app.contracts.variant import BaseVariant, variant_of
from worker.events import EventWriter
from worker.failures import SystemFault, UserError
from worker.rendering.question import question_ids
from worker.rendering.renderer import Renderer, load_renderer
from worker.training.adapters import NAME
from worker.training.biases import Biases, answering_as_base
from worker.weights import digest_of

QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three numbers.",
    "Why is the sky blue?",
)
# The number of trained tokens of a row whose loss is measured, and the fewest tokens that must precede them.
FIT_TOKENS, LEAST_BEFORE = 64, 4
# From the finest to the coarsest.
PRECISIONS = ("float32", "float16", "bfloat16")


def take_probe(model: Any, order: TrainingOrder, rows: Dataset, resolved: dict[str, Any], biases: Biases) -> Probe:
    """Record the outputs of the trained model and, if it has a LoRA, of its base.

    `rows`: the training rows. `biases`: the base's biases before the training. Raises UserError if the model's logits
    are not finite, SystemFault if their shape is wrong.
    """
    samples, max_tokens = sample_rows(rows), resolved["model.max_seq_length"]
    prompts = probe_prompts(load_renderer(order.tokenizer), samples, max_tokens)
    has_base = isinstance(model, PeftModel) and order.spec.lora.loftq_config is None
    with _evaluating(model):
        recorded = tuple(
            _decode(model, ids, biases if has_base else None).model_copy(update={"question": question})
            for question, ids in prompts
        )
        noise = fmean(chain.from_iterable(_noise(model, prompt) for prompt in recorded))
        fit = _fit(model, samples, biases if has_base else None)
    return Probe(
        dtype=coarsest(resolved),
        variant=_variant(model),
        quantised=resolved["model.load_in_4bit"] or resolved["model.load_in_8bit"],
        noise=noise,
        fit=fit,
        weights=_weights(model) if has_base else None,
        prompts=recorded,
    )


def notice_worse_than_base(fit: Fit | None, rate: float, events: EventWriter) -> None:
    """Write a notice if the model has a higher loss on its training rows than its base. That alone is no failure."""
    if fit is not None and fit.is_worse_than_base:
        message = (
            f"on its training rows the model has a loss of {fit.trained:.3g}, higher than its base's {fit.base:.3g}: "
            "a lower learning_rate usually helps"
        )
        events.notice("worse_than_base", message, field="training.learning_rate", requested=rate)


def _weights(model: PeftModel) -> ProbeWeights:
    """The hash of the LoRA's weights as `save_pretrained` will write them, and the scaling of each layer."""
    layers = ((path, layer) for path, layer in model.named_modules() if isinstance(layer, LoraLayer))
    return ProbeWeights(
        sha256=digest_of(get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)),
        scalings={path.removeprefix("base_model.model."): float(layer.scaling[NAME]) for path, layer in layers},
    )


def _variant(model: Any) -> BaseVariant | None:
    """How the base was quantised when it was loaded. Returns None if it was not."""
    quantisation = getattr(model.config, "quantization_config", None)
    if quantisation is None:
        return None
    return variant_of(quantisation if isinstance(quantisation, dict) else quantisation.to_dict())


@dataclass(frozen=True)
class Sample:
    """The token ids of a training row, cut at its first trained token: before it, and from it on."""

    before: list[int]
    trained_on: list[int]


def sample_rows(rows: Dataset) -> list[Sample]:
    """The first, the middle and the last row. If almost nothing precedes the first trained token, a row is halved."""
    return [_sample(rows[number]) for number in sorted({0, len(rows) // 2, len(rows) - 1})]


def _sample(row: dict[str, list[int]]) -> Sample:
    ids, labels = row[INPUT_IDS], row[LABELS]
    first = next((place for place, label in enumerate(labels) if label != IGNORED), len(ids))
    if first < LEAST_BEFORE:
        first = max(1, min(len(ids) // 2, PROMPT_TOKENS))
    last = next((place for place in range(first, len(ids)) if labels[place] == IGNORED), len(ids))
    return Sample(ids[max(0, first - PROMPT_TOKENS) : first], ids[first : min(last, first + FIT_TOKENS)])


def probe_prompts(renderer: Renderer, samples: Sequence[Sample], max_tokens: int) -> list[tuple[str | None, list[int]]]:
    """Pairs of question and prompt ids: the fixed questions in the job's template, and the starts of some rows.

    Each prompt leaves room for all steps within `max_tokens`. The question is None for rows, and for a template that
    contains the date, because rendering it again tomorrow would give other ids.
    """
    room, is_dated = min(PROMPT_TOKENS, max_tokens - STEPS), renderer.templates.uses_date
    questions = [(None if is_dated else question, question_ids(renderer, question)) for question in QUESTIONS]
    rows: list[tuple[str | None, list[int]]] = [(None, sample.before) for sample in samples]
    return [(question, ids[-room:]) for question, ids in (*questions, *rows) if ids]


def coarsest(resolved: dict[str, Any]) -> str:
    """The dtype of the weights, or of the mixed precision around them, whichever is coarser."""
    mixed = [name for name, field in (("float16", "training.fp16"), ("bfloat16", "training.bf16")) if resolved[field]]
    return max((str(resolved["model.dtype"]), *mixed), key=PRECISIONS.index)


def _fit(model: Any, samples: Sequence[Sample], biases: Biases | None) -> Fit | None:
    """The model's mean loss on the samples' trained tokens and, given its `biases`, the base's. None without tokens."""
    usable = [sample for sample in samples if sample.trained_on]
    if not usable:
        return None
    trained = fmean(chain.from_iterable(_losses(model, sample) for sample in usable))
    base: float | None = None
    if biases is not None:
        with answering_as_base(model, biases):
            base = fmean(chain.from_iterable(_losses(model, sample) for sample in usable))
    vocabulary = model.config.get_text_config().vocab_size
    return Fit(trained=trained, base=base, vocabulary=vocabulary)


def _losses(model: Any, sample: Sample) -> list[float]:
    """The loss of each trained token."""
    ids, count = [*sample.before, *sample.trained_on], len(sample.trained_on)
    rows = _logprobs(model, ids[:-1], count)
    return [max(0.0, -row[token].item()) for row, token in zip(rows, sample.trained_on, strict=True)]


def _decode(model: Any, prompt: list[int], biases: Biases | None) -> ProbePrompt:
    """Decode greedily from a prompt, and record the top tokens of each step, with the base's log-probabilities too."""
    tops: list[list[tuple[int, float]]] = []
    for _ in range(STEPS):
        best, places = _logprobs(model, _with_steps(prompt, tops), 1)[0].topk(CANDIDATES)
        tops.append(list(zip(places.tolist(), best.tolist(), strict=True)))
    base: list[tuple[float, ...] | None] = [None] * STEPS
    if biases is not None:
        with answering_as_base(model, biases):
            base = [*_score_in_one_pass(model, prompt, tops)]
    steps = (ProbeStep(top=tuple(top), base=below) for top, below in zip(tops, base, strict=True))
    return ProbePrompt(ids=tuple(prompt), steps=tuple(steps))


def _noise(model: Any, prompt: ProbePrompt) -> list[float]:
    """Absolute differences to a second computation in one forward pass, which rounds differently."""
    tops = [list(step.top) for step in prompt.steps]
    again = _score_in_one_pass(model, list(prompt.ids), tops)
    return [
        abs(other - one)
        for top, others in zip(tops, again, strict=True)
        for (_, one), other in zip(top, others, strict=True)
    ]


def _score_in_one_pass(
    model: Any, prompt: list[int], tops: Sequence[Sequence[tuple[int, float]]]
) -> list[tuple[float, ...]]:
    """The log-probabilities of the recorded tokens for all steps, from one forward pass."""
    rows = _logprobs(model, _with_steps(prompt, tops[:-1]), len(tops))
    return [tuple(row[[token for token, _ in top]].tolist()) for row, top in zip(rows, tops, strict=True)]


def _with_steps(prompt: list[int], tops: Sequence[Sequence[tuple[int, float]]]) -> list[int]:
    return [*prompt, *(top[0][0] for top in tops)]


def _logprobs(model: Any, ids: list[int], count: int) -> Any:
    """Log-probabilities of the next token after each of the last `count` ids: float32 of shape [count, vocabulary]."""
    scores = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    if scores.dim() != 3 or scores.shape[:2] != (1, len(ids)):
        found = tuple(scores.shape)
        raise SystemFault("no_scores", f"the trained model gave scores of the shape {found} for {len(ids)} tokens")
    scores = scores[0, -count:].float()
    if not torch.isfinite(scores.max()):  # finds NaN and infinity; single tokens may be at minus infinity
        raise UserError(
            "model_not_finite",
            "the trained model's logits are not finite",
            hint="a lower learning_rate, or bf16 in place of fp16, usually helps",
            param="training.learning_rate",
        )
    return scores.log_softmax(dim=-1).clamp(min=IMPOSSIBLE)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients inside the block; the mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
