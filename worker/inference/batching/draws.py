"""Chooses the next tokens of a whole batch with one wait for the device; answers with special wishes one by one.

A draw is what `torch.multinomial` does with one sample: the largest of probability over exponential noise. The noise of
each answer comes from its own dice, so a seed gives the answer that `TokenChooser` gives, in any company.
"""

import math
from collections.abc import Sequence as Rows
from typing import Any, Protocol

import torch

from app.contracts.generation import Sampling
from worker.inference.engine import Refusal, Token, TokenRequest
from worker.inference.sampling import TINY, TokenChooser

WITHOUT_EFFECT = ("temperature", "max_new_tokens", "seed", "stop", "stop_token_ids", "ignore_eos", "use_cache")


class Draw:
    """The temperature and the dice of an answer that has no other wishes."""

    def __init__(self, sampling: Sampling, device: Any) -> None:
        self.temperature = max(sampling.temperature, TINY)
        self.dice = torch.Generator(device)
        if sampling.seed is None:
            self.dice.seed()
        else:
            self.dice.manual_seed(sampling.seed)

    @classmethod
    def of(cls, request: TokenRequest, device: Any) -> "Draw | None":
        """None for an answer that needs a TokenChooser."""
        wishes = {name: getattr(request.sampling, name) for name in WITHOUT_EFFECT}
        if request.grammar is not None or request.sampling != Sampling(**wishes) or request.sampling.temperature == 0:
            return None
        return cls(request.sampling, device)


class Choosing(Protocol):
    """What this module needs to know of an answer under way."""

    tokens: list[int]
    draw: Draw | None
    chooser: TokenChooser | None


def choose(answers: Rows[Choosing], scores: Any) -> list[Token | Exception]:
    """The next token of each answer from `scores` [answers, vocabulary], or why it has none.

    What goes wrong for one answer is told in its place: the dice of the others must not be thrown twice.
    """
    if not answers:
        return []
    try:
        best, top = _best(answers, scores)
    except torch.AcceleratorError:
        raise
    except RuntimeError as error:
        return [error] * len(answers)
    return [
        _alone(answer, scores[number : number + 1])
        if answer.chooser is not None
        else _checked(best[number], top[number])
        for number, answer in enumerate(answers)
    ]


def _best(answers: Rows[Choosing], scores: Any) -> tuple[list[int], list[float]]:
    """The batch's choices and its largest scores, in two copies from the device."""
    top, best = scores.float().max(dim=-1)
    drawn = [number for number, answer in enumerate(answers) if answer.draw is not None]
    if drawn:
        rows = torch.tensor(drawn, device=scores.device)
        draws = [draw for answer in answers if (draw := answer.draw) is not None]
        best[rows] = _drawn(draws, scores[rows].float(), top[rows])
    return best.tolist(), top.tolist()


def _drawn(draws: list[Draw], scores: Any, top: Any) -> Any:
    temperatures = scores.new_tensor([draw.temperature for draw in draws])
    chances = ((scores - top[:, None]) / temperatures[:, None]).softmax(dim=-1)
    noise = torch.empty_like(chances)
    for row, draw in zip(noise, draws, strict=True):
        row.exponential_(generator=draw.dice)
    return (chances / noise).argmax(dim=-1)


def _checked(best: int, top: float) -> Token | Exception:
    if not math.isfinite(top):
        return Refusal(500, "model_not_finite", "the model gave scores that are no finite numbers")
    return Token(best)


def _alone(answer: Choosing, scores: Any) -> Token | Exception:
    assert answer.chooser is not None
    try:
        return answer.chooser.choose(torch.tensor([answer.tokens], device=scores.device), scores)
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
        return error
