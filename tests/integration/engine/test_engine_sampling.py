"""Sampling in the documented order: repetition penalty, temperature, top_k, top_p, min_p."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.contracts.generation import Sampling
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.requests import PROMPT, a_request, tokens_of
from tests.support.serial_engine import SerialEngine
from worker.inference.engine import Refusal
from worker.inference.text.sampling import TokenChooser

FOUR_TO_ONE = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().tolist()
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.3, "top_k": 40},
    {"temperature": 1.5, "top_p": 0.8},
    {"temperature": 1.5, "min_p": 0.1},
    {"temperature": 1.2, "top_k": 60, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
]


def chosen(logits: list[float], ids: list[int] | None = None, **fields: Any) -> set[int]:
    """All tokens that some seed chooses."""
    scores, read = torch.tensor([logits]), torch.tensor([ids or [0]])
    return {TokenChooser(Sampling(seed=seed, **fields), "cpu").choose(read, scores).id for seed in range(60)}


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_a_sampled_answer_is_that_of_generate(
    engine: SerialEngine, served_model: ServedModel, fields: dict[str, Any]
) -> None:
    model, ids = AutoModelForCausalLM.from_pretrained(served_model.base.folder), torch.tensor([list(PROMPT)])

    with torch.random.fork_rng():
        torch.manual_seed(11)
        options = {"do_sample": True, "max_new_tokens": 40, **{"top_k": 0, **fields}}
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=None, **options)

    answer = tokens_of(engine, a_request(served_model, seed=11, max_new_tokens=40, **fields))
    assert answer == written[0, len(PROMPT) :].tolist()[: len(answer)]
    assert len(answer) > 5


CHOICES: dict[str, tuple[list[float], dict[str, Any], set[int]]] = {
    "temperature 0 takes the best": ([0.0, 2.0, 1.9], {"temperature": 0}, {1}),
    "the penalty comes before the choice": (
        [0.0, 2.0, 1.9],
        {"ids": [1], "temperature": 0, "repetition_penalty": 2.0},
        {2},
    ),
    "temperature comes before top_p": ([2.0, 1.0, 0.0], {"temperature": 1.0, "top_p": 0.6}, {0}),
    "a higher one, too": ([2.0, 1.0, 0.0], {"temperature": 10.0, "top_p": 0.6}, {0, 1}),
    "a top_p of 0 leaves the likeliest": ([2.0, 1.0, 0.0], {"temperature": 10.0, "top_p": 0.0}, {0}),
    "temperature comes before min_p": ([2.0, 1.0, 0.0], {"temperature": 1.0, "min_p": 0.5}, {0}),
    "a higher one before min_p": ([2.0, 1.0, 0.0], {"temperature": 10.0, "min_p": 0.5}, {0, 1, 2}),
    "top_p alone": (FOUR_TO_ONE, {"temperature": 1.0, "top_p": 0.5}, {0, 1}),
    "top_k comes before top_p": (FOUR_TO_ONE, {"temperature": 1.0, "top_p": 0.5, "top_k": 2}, {0}),
}


@pytest.mark.parametrize(("logits", "fields", "tokens"), CHOICES.values(), ids=CHOICES)
def test_settings_apply_in_the_documented_order(logits: list[float], fields: dict[str, Any], tokens: set[int]) -> None:
    assert chosen(logits, **fields) == tokens


def test_the_smallest_penalty_is_still_a_number() -> None:
    assert chosen([0.0, 2.0, 5.0], ids=[0, 1, 2], temperature=1.0, repetition_penalty=5e-324) <= {1, 2}


@pytest.mark.parametrize("scores", [[1.0, float("nan")], [1.0, float("inf")], [float("-inf"), float("-inf")]])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_scores_that_are_no_numbers_are_an_error(scores: list[float], temperature: float) -> None:
    with pytest.raises(Refusal, match="not finite numbers"):
        chosen(scores, temperature=temperature)
