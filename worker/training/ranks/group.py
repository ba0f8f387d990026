"""Adds up the gradients of the ranks that compute a step together.

Every rank sees the same rows in the same order, and computes the loss and the gradient of its share, both divided by
the trained tokens of the whole step. Their sums are those of one rank that computes all rows. Clipping and the
optimizer then do the same on every rank, so that weights stay equal bit for bit; `check` proves it.

The group of processes is our own, and not torch's default one: Unsloth, transformers and accelerate see one process on
one GPU, as in any other training.
"""

import atexit
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch.distributed import FileStore

from app.contracts.order import TrainingOrder
from app.contracts.plan import JobPlan
from worker.failures import SystemFault
from worker.training.micro_batches.planning import Plan
from worker.training.ranks.followers import folder_of

# Rank 0 evaluates and saves while the others wait. The worker finds out about a training that hangs.
LONGEST_WAIT = timedelta(days=30)
# How long rank 0 may take to notice that a follower has died, and to end all of them.
SECONDS_TO_END = 20.0
# The most values that are added up at once; as float32 they take 256 MiB.
MOST_VALUES = 2**26
PLAN = "plan"


@dataclass(frozen=True)
class GradientPart:
    """The parameters from `begin` to `end`, whose gradients are added up at once, and room for them as float32.

    `views`: the parts of `flat`, in the shapes of the parameters. All parts use the same memory, one after another.
    """

    begin: int
    end: int
    flat: torch.Tensor
    views: list[torch.Tensor]


def parts_of(parameters: Sequence[torch.Tensor], most_values: int = MOST_VALUES) -> list[GradientPart]:
    """Parts of at most so many values, unless a parameter alone has more."""
    sizes = [one.numel() for one in parameters]
    bounds = [0]
    for number in range(1, len(sizes)):
        if sum(sizes[bounds[-1] : number + 1]) > most_values:
            bounds.append(number)
    ranges = [*pairwise([*bounds, len(sizes)])]
    largest = max(sum(sizes[begin:end]) for begin, end in ranges)
    room = torch.empty(largest, dtype=torch.float32, device=parameters[0].device)
    found = []
    for begin, end in ranges:
        flat = room[: sum(sizes[begin:end])]
        views = [
            part.view_as(one) for part, one in zip(flat.split(sizes[begin:end]), parameters[begin:end], strict=True)
        ]
        found.append(GradientPart(begin, end, flat, views))
    return found


class Ranks:
    """One rank of `count`, and its connection to the others."""

    def __init__(self, order: TrainingOrder, rank: int) -> None:
        self.rank, self.count = rank, order.ranks
        self._store = FileStore(str(folder_of(order) / "store"), self.count)
        self._store.set_timeout(LONGEST_WAIT)
        self._group: Any = None
        self._parameters: list[torch.nn.Parameter] = []
        self._parts: list[GradientPart] = []
        self._is_unequal = torch.zeros((), dtype=torch.bool)

    def send_plan(self, plan: Plan, order: TrainingOrder) -> None:
        """Tell the followers what rank 0 has decided."""
        decided = {"recomputation": plan.recomputation, "tokens": plan.tokens, "may_record": plan.may_record}
        self._store.set(PLAN, json.dumps({"plan": decided, "spec": order.spec.model_dump(mode="json")}))

    def receive_plan(self, order: TrainingOrder) -> tuple[Plan, TrainingOrder]:
        """What rank 0 has decided. Waits until it has."""
        received = json.loads(self._store.get(PLAN))
        return Plan(**received["plan"]), order.model_copy(update={"spec": JobPlan(**received["spec"])})

    def join(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Connect to all other ranks, and take over the weights of rank 0. Called before the first step."""
        self._parameters = [*parameters]
        device = self._parameters[0].device
        self._is_unequal = torch.zeros((), dtype=torch.bool, device=device)
        self._parts = parts_of(self._parameters)
        self._group = self._connect(device)
        with torch.no_grad():
            weights = [one.detach() for one in self._parameters]
            if self.rank > 0:
                torch._foreach_zero_(weights)
            self._add_up(weights)

    def add_up(self, loss: torch.Tensor) -> torch.Tensor:
        """Replace the gradient of this rank's rows by that of the step's rows. Returns the step's loss."""
        for one in self._parameters:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
        self._add_up([one.grad for one in self._parameters if one.grad is not None])
        return self._add_up_loss(loss)

    def check(self) -> None:
        """Raises SystemFault if the weights were not the same on all ranks before every step. Waits for the device."""
        if bool(self._is_unequal):
            raise SystemFault("ranks_differ", f"the weights on the {self.count} GPUs of this training have diverged")

    def _add_up_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Each rank also puts the norms of its weights into a line of its own, so that every rank can compare all."""
        with torch.no_grad():
            norms = torch.stack(torch._foreach_norm([one.detach() for one in self._parameters], 2, torch.float32))
        lines = torch.zeros(self.count, len(norms) + 1, dtype=torch.float32, device=loss.device)
        lines[self.rank, :-1] = norms.nan_to_num()
        lines[self.rank, -1] = loss
        self._all_reduce(lines)
        self._is_unequal |= (lines[:, :-1] != lines[0, :-1]).any()
        return lines[:, -1].sum()

    def _add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors, which are as large as the parameters, by their sums over all ranks."""
        for part in self._parts:
            some = tensors[part.begin : part.end]
            torch._foreach_copy_(part.views, some)
            self._all_reduce(part.flat)
            torch._foreach_copy_(some, part.views)

    def _all_reduce(self, tensor: torch.Tensor) -> None:
        try:
            self._group.allreduce([tensor]).wait()
        except RuntimeError as error:
            self._blame(error)

    def _connect(self, device: torch.device) -> Any:
        from torch import distributed

        try:
            if device.type != "cuda":
                return distributed.ProcessGroupGloo(self._store, self.rank, self.count, timeout=LONGEST_WAIT)
            options = distributed.ProcessGroupNCCL.Options()
            options._timeout = LONGEST_WAIT
            group = distributed.ProcessGroupNCCL(self._store, self.rank, self.count, options)
            atexit.register(group.abort)  # its destructor would wait for ranks that have ended
            return group
        except RuntimeError as error:
            self._blame(error)

    def _blame(self, error: RuntimeError) -> NoReturn:
        """A rank has probably died. Then rank 0 ends as it did, and all others with it."""
        time.sleep(SECONDS_TO_END)
        raise SystemFault("ranks_apart", f"rank {self.rank} has lost the connection to the others: {error}") from error
