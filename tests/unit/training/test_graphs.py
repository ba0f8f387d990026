"""When a shape is recorded, and when what was recorded is used. A stand-in records: graphs need a GPU (tests/gpu)."""

from typing import Any

import pytest
import torch

from worker.training.micro_batches.graphs import Body, BodyGraphs
from worker.training.micro_batches.tensors import MicroBatch

TARGETS = torch.ones(())
GRADIENT = torch.tensor([3.0, 4.0])


class StandIn(BodyGraphs):
    """Replays add the gradient of the eager model and an error. The eager model has some noise of its own."""

    def __init__(self, *, error: float = 0.0, noise: float = 0.0, most_segments: int = 3) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(2))
        super().__init__(Body(None, lambda *_: torch.zeros(()), torch.bfloat16), [self.weight], most_segments)
        self.error, self.noise = error, noise
        self.eager = self.replays = self.recordings = 0

    def step(self, length: int, segments: tuple[int, ...] | None = None) -> torch.Tensor:
        ids = torch.zeros((1, length), dtype=torch.int64)
        self.begin_step()
        self.run(MicroBatch(ids, ids, ids, segments=segments), TARGETS, self._compute)
        assert self.weight.grad is not None
        return self.weight.grad.clone()

    def _compute(self) -> torch.Tensor:
        self.eager += 1
        return self._add(self.noise * (-1) ** self.eager)

    def _record(self, _: Any) -> Any:
        self.recordings += 1

    def _replay(self, *_: Any) -> torch.Tensor:
        self.replays += 1
        return self._add(self.error)

    def _add(self, error: float) -> torch.Tensor:
        assert self.weight.grad is not None
        self.weight.grad += GRADIENT * (1 + error)
        return torch.ones(())


def test_a_shape_is_recorded_at_its_second_use_and_replayed_from_then_on() -> None:
    graphs = StandIn()

    found = [graphs.step(64) for _ in range(4)]

    assert (graphs.recordings, graphs.replays) == (1, 3)
    for gradient in found:
        torch.testing.assert_close(gradient, GRADIENT)


@pytest.mark.parametrize(("error", "noise", "is_off"), [(1e-2, 0.0, True), (1e-2, 1e-2, False), (1e-1, 1e-2, True)])
def test_a_graph_may_differ_from_the_eager_model_as_much_as_that_from_itself(
    error: float, noise: float, *, is_off: bool
) -> None:
    graphs = StandIn(error=error, noise=noise)

    gradients = [graphs.step(64) for _ in range(3)]

    assert graphs.is_off is is_off
    assert graphs.has_recorded is not is_off
    torch.testing.assert_close(gradients[1], GRADIENT, rtol=2e-2, atol=0)


def test_a_sequence_with_more_segments_than_a_graph_has_room_for_is_computed_eagerly() -> None:
    graphs = StandIn(most_segments=2)

    for _ in range(3):
        graphs.step(64, segments=(30, 30, 4))

    assert (graphs.eager, graphs.recordings) == (3, 0)


def test_after_graphs_are_forgotten_none_is_recorded_again() -> None:
    graphs = StandIn()
    for _ in range(2):
        graphs.step(64)

    graphs.forget()
    gradients = [graphs.step(64) for _ in range(3)]

    assert (graphs.recordings, graphs.has_recorded) == (1, False)
    torch.testing.assert_close(gradients[-1], GRADIENT)
