"""Penalties, biases, least lengths, stop tokens and log-probabilities, each for one answer alone."""

import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.contracts.generation import IMPOSSIBLE, Sampling
from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, events_of, tokens_of
from tests.support.serial_engine import SerialEngine
from worker.inference.engine import Ended, Refusal, Token, TokenRequest
from worker.inference.text.sampling import TokenChooser, answer_ends, is_plain_greedy


def greedy(logits: list[float], steps: int = 4, *, ends: tuple[int, ...] = (), **fields: Any) -> list[int]:
    """The tokens that are chosen where the model gives the same scores at every step."""
    chooser = TokenChooser(Sampling(temperature=0, **fields), "cpu", ends=ends)
    ids, written = torch.tensor([[0]]), []
    for _ in range(steps):
        written.append(chooser.choose(ids, torch.tensor([logits])).id)
        ids = torch.cat([ids, torch.tensor([[written[-1]]])], dim=-1)
    return written


CHOICES: dict[str, tuple[list[float], dict[str, Any], list[int]]] = {
    "presence counts once": ([0.0, 2.0, 1.5], {"presence_penalty": 1.0}, [1, 2, 1, 1]),
    "frequency counts each time": ([0.0, 2.0, 1.5], {"frequency_penalty": 1.0}, [1, 2, 1, 2]),
    "token 0 is of the prompt": ([5.0, 4.5], {"presence_penalty": 2.0}, [0]),
    "a bias comes behind the penalties": ([0.0, 2.0, 1.5], {"logit_bias": {0: 3.0}}, [0, 0]),
    "a bias forbids a token": ([0.0, 2.0, 1.5], {"logit_bias": {1: -100.0}}, [2, 2]),
    "no end comes before the least length": ([0.0, 2.0, 1.5], {"ends": (1,), "min_tokens": 2}, [2, 2, 1, 1]),
}


@pytest.mark.parametrize(("logits", "fields", "tokens"), CHOICES.values(), ids=CHOICES)
def test_the_best_is_chosen_as_settings_change_the_scores(
    logits: list[float], fields: dict[str, Any], tokens: list[int]
) -> None:
    assert greedy(logits, steps=len(tokens), **fields) == tokens


def test_a_negative_penalty_makes_what_was_said_more_likely() -> None:
    chooser = TokenChooser(Sampling(temperature=0, presence_penalty=-2.0), "cpu")
    chooser.choose(torch.tensor([[0]]), torch.tensor([[0.0, 1.0]]))

    assert chooser.choose(torch.tensor([[0, 1]]), torch.tensor([[2.0, 1.0]])).id == 1


def test_a_bias_comes_before_the_temperature() -> None:
    sampled = {
        TokenChooser(Sampling(temperature=10.0, seed=seed, logit_bias={1: -20.0}), "cpu")
        .choose(torch.tensor([[0]]), torch.tensor([[0.0, 0.0, 0.0]]))
        .id
        for seed in range(60)
    }
    assert sampled == {0, 1, 2}  # ten times less of a bias


def test_a_token_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(Refusal, match="logit_bias: found token 3, the model has the tokens 0 to 2") as refused:
        greedy([0.0, 1.0, 2.0], logit_bias={3: 1.0})

    assert (refused.value.error.status, refused.value.error.param) == (422, "logit_bias")


def test_where_only_ends_are_left_the_least_length_is_refused() -> None:
    with pytest.raises(Refusal, match="no token of this model can come next"):
        greedy([0.0, 1.0], ends=(0, 1), min_tokens=1)


def test_a_choice_tells_its_raw_log_probability_and_the_best() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -math.inf]])
    sampling = Sampling(temperature=0, logprobs=4, logit_bias={2: 50.0})

    token = TokenChooser(sampling, "cpu").choose(torch.tensor([[0]]), logits)

    raw = logits.log_softmax(-1)[0].tolist()
    assert token.id == 2
    assert token.logprob == pytest.approx(raw[2])
    assert [place for place, _ in token.top] == [1, 2, 0, 3]
    assert [logprob for _, logprob in token.top] == pytest.approx([raw[1], raw[2], raw[0], IMPOSSIBLE])


def test_one_seed_chooses_the_same_between_others() -> None:
    logits = torch.randn(20, 1, 50, generator=torch.Generator().manual_seed(0))
    fields: dict[str, Any] = {"temperature": 1.0, "seed": 3, "frequency_penalty": 0.5, "top_p": 0.9}

    def chosen(others: int) -> list[int]:
        mine, crowd = TokenChooser(Sampling(**fields), "cpu"), TokenChooser(Sampling(temperature=1.0, seed=9), "cpu")
        written = []
        for step in logits:
            written.append(mine.choose(torch.tensor([[0]]), step).id)
            for _ in range(others):
                crowd.choose(torch.tensor([[0]]), step)
        return written

    assert chosen(0) == chosen(3)


def test_ends_are_those_of_the_model_of_the_request_and_of_the_answer(served_model: ServedModel) -> None:
    request = a_request(served_model, eos_ids=frozenset({7}), stop_token_ids=(9,))
    ignoring = a_request(served_model, eos_ids=frozenset({7}), stop_token_ids=(9,), ignore_eos=True)

    assert answer_ends(request, [2]) == {2, 7, 9}
    assert answer_ends(ignoring, [2]) == {9}


PLAIN: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 1, "stop": ("x",), "ignore_eos": True}, True),
    ({"temperature": 0.1}, False),
    ({"repetition_penalty": 1.1}, False),
    ({"presence_penalty": 0.1}, False),
    ({"frequency_penalty": 0.1}, False),
    ({"logit_bias": {1: 1.0}}, False),
    ({"min_tokens": 1}, False),
    ({"logprobs": 0}, False),
]


@pytest.mark.parametrize(("fields", "is_plain"), PLAIN, ids=str)
def test_only_what_cannot_change_the_best_is_plain_greedy(
    served_model: ServedModel, fields: dict[str, Any], is_plain: bool
) -> None:
    assert is_plain_greedy(a_request(served_model, **fields)) is is_plain


def test_a_stop_token_ends_the_answer_and_is_not_told(engine: SerialEngine, served_model: ServedModel) -> None:
    whole = reference(served_model.base, None, PROMPT, 12)

    events = events_of(engine, a_request(served_model, stop_token_ids=(whole[4],)))

    before = whole[: whole.index(whole[4])]
    assert [event.id for event in events if isinstance(event, Token)] == before
    assert events[-1] == Ended("stop", len(before) + 1)


def test_an_end_token_that_is_ignored_is_a_token_like_others(engine: SerialEngine, served_model: ServedModel) -> None:
    eos = reference(served_model.base, None, PROMPT, 12)[3]
    fields: dict[str, Any] = {"eos_ids": frozenset({eos})}

    ending, going_on = a_request(served_model, **fields), a_request(served_model, ignore_eos=True, **fields)

    assert len(tokens_of(engine, ending)) < 4
    plain = reference(served_model.base, None, PROMPT, 12)
    assert tokens_of(engine, going_on)[: len(plain)] == plain
    assert len(tokens_of(engine, going_on)) == 12


def test_log_probabilities_are_those_of_a_plain_forward(engine: SerialEngine, served_model: ServedModel) -> None:
    request: TokenRequest = a_request(served_model, logprobs=2, repetition_penalty=1.2)
    told = [event for event in events_of(engine, request) if isinstance(event, Token)]

    model = AutoModelForCausalLM.from_pretrained(served_model.base.folder)
    ids = torch.tensor([[*PROMPT, *(token.id for token in told)]])
    raw = model(ids).logits.log_softmax(-1)[0, len(PROMPT) - 1 : -1]
    assert [token.logprob for token in told] == pytest.approx(
        [row[token.id].item() for row, token in zip(raw, told, strict=True)], abs=1e-4
    )
    assert [token.top[0][0] for token in told] == raw.argmax(-1).tolist()
