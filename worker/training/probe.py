"""What the trained model says to a few fixed prompts, so that the engine can be asked whether it says the same.

Each step is a plain forward over all tokens before it: no cache, no padding, nothing that a kernel for generation does.
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
# Trained tokens of a row whose loss is measured, and the fewest that have to stand before what is asked of it.
FIT_TOKENS, LEAST_BEFORE = 64, 4
# From the finest to the coarsest.
PRECISIONS = ("float32", "float16", "bfloat16")


def take_probe(model: Any, order: TrainingOrder, rows: Dataset, resolved: dict[str, Any], biases: Biases) -> Probe:
    """Ask the trained model, and the base below its LoRA. `rows` are those that it was trained on, `biases` the base's.

    Raises UserError for a model whose scores are no finite numbers.
    """
    samples, max_tokens = sample_rows(rows), resolved["model.max_seq_length"]
    asked = probe_prompts(load_renderer(order.tokenizer), samples, max_tokens)
    has_base = isinstance(model, PeftModel) and order.spec.lora.loftq_config is None
    with _at_rest(model):
        taken = tuple(
            _follow(model, ids, biases if has_base else None).model_copy(update={"question": question})
            for question, ids in asked
        )
        noise = fmean(chain.from_iterable(_noise(model, prompt) for prompt in taken))
        fit = _fit(model, samples, biases if has_base else None)
    return Probe(
        dtype=coarsest(resolved),
        variant=_variant(model),
        quantised=resolved["model.load_in_4bit"] or resolved["model.load_in_8bit"],
        noise=noise,
        fit=fit,
        weights=_weights(model) if has_base else None,
        prompts=taken,
    )


def notice_worse_than_base(fit: Fit | None, rate: float, events: EventWriter) -> None:
    """Say that training has made the model worse at its own rows, where that alone is no reason to fail."""
    if fit is not None and fit.is_worse_than_base:
        message = (
            f"on rows that it was trained on the model has a loss of {fit.trained:.3g}, its base had {fit.base:.3g}: "
            "a lower learning_rate usually helps"
        )
        events.notice("worse_than_base", message, field="training.learning_rate", requested=rate)


def _weights(model: PeftModel) -> ProbeWeights:
    """As `save_pretrained` is to write them."""
    layers = ((path, layer) for path, layer in model.named_modules() if isinstance(layer, LoraLayer))
    return ProbeWeights(
        sha256=digest_of(get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)),
        scalings={path.removeprefix("base_model.model."): float(layer.scaling[NAME]) for path, layer in layers},
    )


def _variant(model: Any) -> BaseVariant | None:
    """What the trainer made of the base when it was loaded."""
    quantisation = getattr(model.config, "quantization_config", None)
    if quantisation is None:
        return None
    return variant_of(quantisation if isinstance(quantisation, dict) else quantisation.to_dict())


@dataclass(frozen=True)
class Sample:
    """A row that was trained on, cut where the model was first taught what comes next."""

    before: list[int]
    taught: list[int]


def sample_rows(rows: Dataset) -> list[Sample]:
    """The first row, the last one, and one between them. Where nothing stands before the taught, half of it does."""
    return [_sample(rows[number]) for number in sorted({0, len(rows) // 2, len(rows) - 1})]


def _sample(row: dict[str, list[int]]) -> Sample:
    ids, labels = row[INPUT_IDS], row[LABELS]
    first = next((place for place, label in enumerate(labels) if label != IGNORED), len(ids))
    if first < LEAST_BEFORE:
        first = max(1, min(len(ids) // 2, PROMPT_TOKENS))
    last = next((place for place in range(first, len(ids)) if labels[place] == IGNORED), len(ids))
    return Sample(ids[max(0, first - PROMPT_TOKENS) : first], ids[first : min(last, first + FIT_TOKENS)])


def probe_prompts(renderer: Renderer, samples: Sequence[Sample], max_tokens: int) -> list[tuple[str | None, list[int]]]:
    """The fixed questions, as the job's template asks them, and what stands before the taught part of some rows.

    Each leaves room for all steps within `max_tokens`. A template that names the day makes other ids of a question
    tomorrow, which is then no question to be asked again.
    """
    room, is_dated = min(PROMPT_TOKENS, max_tokens - STEPS), renderer.templates.uses_date
    asked = [(None if is_dated else question, question_ids(renderer, question)) for question in QUESTIONS]
    rows: list[tuple[str | None, list[int]]] = [(None, sample.before) for sample in samples]
    return [(question, ids[-room:]) for question, ids in (*asked, *rows) if ids]


def coarsest(resolved: dict[str, Any]) -> str:
    """The dtype of the weights, or of the mixed precision around them, whichever is coarser."""
    mixed = [name for name, field in (("float16", "training.fp16"), ("bfloat16", "training.bf16")) if resolved[field]]
    return max((str(resolved["model.dtype"]), *mixed), key=PRECISIONS.index)


def _fit(model: Any, samples: Sequence[Sample], biases: Biases | None) -> Fit | None:
    """The loss of the rows' taught parts, with the base's where it has these biases; None where nothing is taught."""
    taught = [sample for sample in samples if sample.taught]
    if not taught:
        return None
    trained = fmean(chain.from_iterable(_losses(model, sample) for sample in taught))
    base: float | None = None
    if biases is not None:
        with answering_as_base(model, biases):
            base = fmean(chain.from_iterable(_losses(model, sample) for sample in taught))
    vocabulary = model.config.get_text_config().vocab_size
    return Fit(trained=trained, base=base, vocabulary=vocabulary)


def _losses(model: Any, sample: Sample) -> list[float]:
    """Of each taught token."""
    ids, count = [*sample.before, *sample.taught], len(sample.taught)
    rows = _logprobs(model, ids[:-1], count)
    return [max(0.0, -row[token].item()) for row, token in zip(rows, sample.taught, strict=True)]


def _follow(model: Any, prompt: list[int], biases: Biases | None) -> ProbePrompt:
    """What the model says to a prompt, and its base with these biases."""
    tops: list[list[tuple[int, float]]] = []
    for _ in range(STEPS):
        best, places = _logprobs(model, _with_steps(prompt, tops), 1)[0].topk(CANDIDATES)
        tops.append(list(zip(places.tolist(), best.tolist(), strict=True)))
    base: list[tuple[float, ...] | None] = [None] * STEPS
    if biases is not None:
        with answering_as_base(model, biases):
            base = [*_read_at_once(model, prompt, tops)]
    steps = (ProbeStep(top=tuple(top), base=below) for top, below in zip(tops, base, strict=True))
    return ProbePrompt(ids=tuple(prompt), steps=tuple(steps))


def _noise(model: Any, prompt: ProbePrompt) -> list[float]:
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
    rows = _logprobs(model, _with_steps(prompt, tops[:-1]), len(tops))
    return [tuple(row[[token for token, _ in top]].tolist()) for row, top in zip(rows, tops, strict=True)]


def _with_steps(prompt: list[int], tops: Sequence[Sequence[tuple[int, float]]]) -> list[int]:
    return [*prompt, *(top[0][0] for top in tops)]


def _logprobs(model: Any, ids: list[int], count: int) -> Any:
    """[count, vocabulary] in float32: what comes behind each of the last ids."""
    scores = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    if scores.dim() != 3 or scores.shape[:2] != (1, len(ids)):
        found = tuple(scores.shape)
        raise SystemFault("no_scores", f"the trained model gave scores of the shape {found} for {len(ids)} tokens")
    scores = scores[0, -count:].float()
    if not torch.isfinite(scores.max()):  # NaN and infinity; single tokens may be at minus infinity
        raise UserError(
            "model_not_finite",
            "the trained model gives scores that are no finite numbers",
            hint="a lower learning_rate, or bf16 in place of fp16, usually helps",
            param="training.learning_rate",
        )
    return scores.log_softmax(dim=-1).clamp(min=IMPOSSIBLE)


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
