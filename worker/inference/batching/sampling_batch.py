"""Chooses the next tokens of a batch on the device. Answers with other sampling options are sampled one by one.

A draw equals `torch.multinomial` with one sample: the largest ratio of probability and exponential noise. The noise of
each answer comes from its own generator, so a seed gives the same answer as `TokenChooser`, whatever else is in the
batch.
"""

import math
from collections.abc import Sequence as Rows
from typing import Any, Protocol

import torch

from app.contracts.generation import Sampling
from worker.inference.batching.tensors import to_device
from worker.inference.engine import Refusal, Token, TokenRequest
from worker.inference.text.sampling import TINY, TokenChooser, is_default_but_for


class Draw:
    """The temperature and the random generator of an answer without other sampling options."""

    def __init__(self, sampling: Sampling, device: Any) -> None:
        self.temperature = max(sampling.temperature, TINY)
        self.rng = torch.Generator(device)
        if sampling.seed is None:
            self.rng.seed()
        else:
            self.rng.manual_seed(sampling.seed)

    @classmethod
    def of(cls, request: TokenRequest, device: Any) -> "Draw | None":
        """Returns None for an answer that needs a TokenChooser."""
        if request.sampling.temperature == 0 or not is_default_but_for(request, "temperature"):
            return None
        return cls(request.sampling, device)


class Choosing(Protocol):
    """What this module needs to know of an answer in progress."""

    tokens: list[int]
    draw: Draw | None
    chooser: TokenChooser | None

    @property
    def known(self) -> int:
        """The number of its tokens that the host knows."""
        ...


class Choices:
    """The next tokens of a batch. The device has them at once; the host waits for them only in `read`."""

    def __init__(self, answers: Rows[Choosing], scores: Any) -> None:
        """`scores` [answers, vocabulary] may change afterwards if no answer `needs_host`."""
        self.needs_host = any(answer.chooser is not None for answer in answers)
        self.best: Any = None  # [answers], on the device, without choices of a TokenChooser
        self._answers = answers
        self._scores: Any = scores if self.needs_host else None
        self._error: Exception | None = None
        try:
            self._begin(scores)
        except torch.AcceleratorError:
            raise
        except RuntimeError as error:
            self._error = error

    def _begin(self, scores: Any) -> None:
        top, best = scores.float().max(dim=-1)
        drawn = [number for number, answer in enumerate(self._answers) if answer.draw is not None]
        if drawn:
            rows = to_device(drawn, scores.device)
            draws = [draw for answer in self._answers if (draw := answer.draw) is not None]
            best[rows] = _drawn(draws, scores[rows].float(), top[rows])
        self.best = best
        self._results = torch.stack([best.double(), top.double()])
        self._event = None
        if self._results.is_cuda:
            self._results = self._results.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[Token | Exception]:
        """The next token of each answer, or the error of that answer.

        An error is returned, not raised: choosing again for the other answers would advance their generators twice.
        """
        if self._error is not None:
            return [self._error] * len(self._answers)
        if self._event is not None:
            self._event.synchronize()
        best, top = self._results.tolist()
        return [
            _alone(answer, self._scores[number : number + 1])
            if answer.chooser is not None
            else _checked(int(best[number]), top[number])
            for number, answer in enumerate(self._answers)
        ]


def _drawn(draws: list[Draw], scores: Any, top: Any) -> Any:
    temperatures = to_device([draw.temperature for draw in draws], scores.device, scores.dtype)
    chances = ((scores - top[:, None]) / temperatures[:, None]).softmax(dim=-1)
    noise = torch.empty_like(chances)
    for row, draw in zip(noise, draws, strict=True):
        row.exponential_(generator=draw.rng)
    return (chances / noise).argmax(dim=-1)


def _checked(best: int, top: float) -> Token | Exception:
    if not math.isfinite(top):
        return Refusal(500, "model_not_finite", "the model gave scores that are not finite numbers")
    return Token(best)


def _alone(answer: Choosing, scores: Any) -> Token | Exception:
    assert answer.chooser is not None
    try:
        return answer.chooser.choose(torch.tensor([answer.tokens[: answer.known]], device=scores.device), scores)
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
        return error
