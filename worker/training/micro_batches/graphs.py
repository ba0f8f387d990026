"""Replays the forward and backward passes of a model's body as CUDA graphs, one pair for each shape of a micro-batch.

A step of an eager model launches some five thousand kernels, and on most hosts Python needs longer for that than the
GPU for the work. A graph is one launch. The head and its loss stay eager between the two graphs, since how many tokens
are trained differs in every micro-batch:

    copy ids, positions, segments ──> forward graph ──> hidden states ──> head and loss ──> gradient ──> backward graph

A graph reads and writes fixed addresses. So gradients keep their tensors over all steps, and the memory of one pair's
activations is used by all others too (they never run at the same time).
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from worker.training.micro_batches.tensors import MicroBatch, on_device

# A shape is recorded at its second use. At the first one its kernels are loaded, which a recording must not do.
USES_BEFORE_RECORDING = 1
MOST_GRAPHS = 48
# How much the loss and the gradient of the first graph may differ from those of the eager model. Both are the same
# kernels, and only their atomic additions differ in order, as they do from one eager pass to the next.
LOSS_TOLERANCE, GRADIENT_TOLERANCE, TIMES_NOISE = 1e-3, 1e-3, 2.0
# While a graph is recorded, NCCL's thread may ask for its events.
ERRORS = "thread_local"
HIDDEN_STATES = "UNSLOTH_RETURN_HIDDEN_STATES"
log = logging.getLogger(__name__)

# (sequences, length, most segments): what a graph is recorded for. No segments: every sequence holds one row.
Shape = tuple[int, int, int]
# Returns the loss of hidden states, given labels and the number of the step's targets.
Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Body:
    """A causal model whose forward pass returns hidden states, and the loss of its head."""

    model: Any
    head: Head
    dtype: torch.dtype

    def hidden_states(self, arguments: dict[str, Any]) -> torch.Tensor:
        before = os.environ.get(HIDDEN_STATES)
        os.environ[HIDDEN_STATES] = "1"
        try:
            with torch.autocast("cuda", dtype=self.dtype, cache_enabled=False):
                hidden: torch.Tensor = self.model(**arguments).logits
            return hidden
        finally:
            if before is None:
                del os.environ[HIDDEN_STATES]
            else:
                os.environ[HIDDEN_STATES] = before


@dataclass(frozen=True)
class Recorded:
    """The two graphs of a shape, and the tensors that they read and write."""

    inputs: dict[str, torch.Tensor]
    hidden: torch.Tensor
    gradient: torch.Tensor
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


class BodyGraphs:
    """Runs micro-batches as graphs where that pays, and eagerly otherwise. After a failure everything runs eagerly."""

    def __init__(self, body: Body, parameters: list[torch.nn.Parameter], most_segments: int) -> None:
        """`parameters`: all that are trained. `most_segments`: of a micro-batch, its padding included."""
        self._body, self._parameters, self._most_segments = body, parameters, most_segments
        self._gradients: list[torch.Tensor] = []
        self._uses: Counter[Shape] = Counter()
        self._recorded: dict[Shape, Recorded] = {}
        self._pool: Any = None
        self.is_off = False

    @property
    def has_recorded(self) -> bool:
        return bool(self._recorded)

    def begin_step(self) -> None:
        """Set all gradients to zero, in the tensors that the graphs write."""
        if not self._gradients:
            self._gradients = [torch.zeros_like(one) for one in self._parameters]
        else:
            torch._foreach_zero_(self._gradients)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def run(self, micro_batch: MicroBatch, targets: torch.Tensor, eager: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Add the gradient of a micro-batch and return its loss."""
        shape = self._shape_of(micro_batch)
        if shape in self._recorded and self._has_room_for(micro_batch):
            return self._replay(self._recorded[shape], micro_batch, targets)
        self._uses[shape] += 1
        is_frequent = self._uses[shape] > USES_BEFORE_RECORDING and self._has_room_for(micro_batch)
        if self.is_off or not is_frequent or len(self._recorded) >= MOST_GRAPHS:
            return eager()
        return self._record_and_run(shape, micro_batch, targets, eager)

    def forget(self) -> None:
        """Free the memory of all graphs and record no more of them."""
        self._recorded.clear()
        self._pool, self.is_off = None, True
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _has_room_for(self, micro_batch: MicroBatch) -> bool:
        return len(micro_batch.segments or ()) <= self._most_segments

    def _shape_of(self, micro_batch: MicroBatch) -> Shape:
        sequences, length = micro_batch.ids.shape
        return sequences, length, 0 if micro_batch.segments is None else self._most_segments

    def _record_and_run(
        self, shape: Shape, micro_batch: MicroBatch, targets: torch.Tensor, eager: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        is_first = not self._recorded
        before = [one.clone() for one in self._gradients]
        try:
            self._recorded[shape] = self._record(shape)
            loss = self._replay(self._recorded[shape], micro_batch, targets)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            log.warning("a step of the shape %s could not be recorded as a graph: %s", shape, error)
            return self._give_up(before, eager)
        if is_first and not self._equals_eager(before, loss, eager):
            return self._give_up(before, eager)
        return loss

    def _give_up(self, before: list[torch.Tensor], eager: Callable[[], torch.Tensor]) -> torch.Tensor:
        self.forget()
        torch._foreach_copy_(self._gradients, before)
        return eager()

    def _equals_eager(self, before: list[torch.Tensor], loss: torch.Tensor, eager: Callable[[], torch.Tensor]) -> bool:
        """Whether the eager model gives the same loss, and a gradient that differs no more than that of a second time.

        The gradients are then the eager model's.
        """
        recorded = torch._foreach_sub(self._gradients, before)
        expected_loss, expected = self._eager_gradient(before, eager)
        _, again = self._eager_gradient(before, eager)
        size = max(_norm(expected), 1e-30)
        off_loss = _relative(loss - expected_loss, expected_loss)
        off, noise = (_norm(torch._foreach_sub(each, expected)) / size for each in (recorded, again))
        is_equal = off_loss <= LOSS_TOLERANCE and off <= GRADIENT_TOLERANCE + TIMES_NOISE * noise
        level = logging.INFO if is_equal else logging.WARNING
        message = (
            "graph against eager model: the loss differs by %.2e, the gradient by %.2e; a second eager one by %.2e"
        )
        log.log(level, message, off_loss, off, noise)
        return is_equal

    def _eager_gradient(
        self, before: list[torch.Tensor], eager: Callable[[], torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        torch._foreach_copy_(self._gradients, before)
        loss = eager()
        return loss, [*torch._foreach_sub(self._gradients, before)]

    def _record(self, shape: Shape) -> Recorded:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graphs have a pool of their own
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        inputs = self._inputs(shape)
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with _known_segments(inputs, shape[1]):
            with torch.cuda.graph(forward, pool=self._pool, capture_error_mode=ERRORS):
                hidden = self._body.hidden_states({**_arguments(inputs), "use_cache": False})
            gradient = torch.zeros_like(hidden)
            with torch.cuda.graph(backward, pool=self._pool, capture_error_mode=ERRORS):
                torch.autograd.backward(hidden, gradient)
        return Recorded(inputs, hidden.detach(), gradient, forward, backward)

    def _inputs(self, shape: Shape) -> dict[str, torch.Tensor]:
        sequences, length, segments = shape
        device = self._parameters[0].device
        inputs = {name: torch.zeros((sequences, length), dtype=torch.int64, device=device) for name in ("ids", "at")}
        if segments:
            inputs["lengths"] = torch.zeros(segments, dtype=torch.int32, device=device)
            inputs["bounds"] = torch.zeros(segments + 1, dtype=torch.int32, device=device)
        return inputs

    def _replay(self, recorded: Recorded, micro_batch: MicroBatch, targets: torch.Tensor) -> torch.Tensor:
        device = recorded.hidden.device
        for name, tensor in self._contents(micro_batch).items():
            recorded.inputs[name].copy_(on_device(tensor, device), non_blocking=True)
        recorded.forward.replay()
        hidden = recorded.hidden.detach().requires_grad_()
        loss = self._body.head(hidden, on_device(micro_batch.labels, device), targets)
        loss.backward()
        recorded.gradient.copy_(hidden.grad)
        recorded.backward.replay()
        return loss.detach().float()

    def _contents(self, micro_batch: MicroBatch) -> dict[str, torch.Tensor]:
        contents = {"ids": micro_batch.ids, "at": micro_batch.positions}
        if micro_batch.segments is not None:
            empty = (0,) * (self._most_segments - len(micro_batch.segments))
            lengths = torch.tensor((*micro_batch.segments, *empty), dtype=torch.int32)
            contents["lengths"] = lengths
            contents["bounds"] = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        return contents


def _arguments(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    arguments = {"input_ids": inputs["ids"], "position_ids": inputs["at"]}
    return {**arguments, "packed_seq_lengths": inputs["lengths"]} if "lengths" in inputs else arguments


@contextmanager
def _known_segments(inputs: dict[str, torch.Tensor], length: int) -> Iterator[None]:
    """Keep Unsloth from reading the segments' lengths off the device while a graph is recorded.

    It caches what it has read for the tensor that it has read it from. The kernel gets the true bounds from the device;
    of the lengths on the host it needs only that there are several, and the longest possible one.
    """
    if "lengths" not in inputs:
        yield
        return
    from unsloth.utils import packing  # imports its kernels

    lengths, bounds = inputs["lengths"], inputs["bounds"]
    host = (length // 2 + 1, length - length // 2 - 1)
    info = {"seq_lengths": lengths, "result": (lengths, bounds, length), "inference": False}
    packing._PACKED_INFO_CACHE[lengths.device] = info
    packing._PACKED_HOST_LENGTHS_CACHE[lengths.device] = (lengths, bounds, host)
    try:
        yield
    finally:
        packing.clear_packed_caches()


def _norm(tensors: Any) -> float:
    return float(torch.stack(torch._foreach_norm(tensors)).norm())


def _relative(difference: torch.Tensor, expected: torch.Tensor) -> float:
    return float(difference.abs() / expected.abs().clamp(min=1e-30))
