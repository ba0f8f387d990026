"""The training itself: a tiny network whose every step depends on its weights, its optimizer, the order of the data and
random numbers, so that a wrong resume shows in the next loss. The same on every run of one machine, to the bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes

ROWS, FEATURES, HIDDEN, BATCH = 96, 8, 24, 4
STEPS_AN_EPOCH = ROWS // BATCH
LEARNING_RATE = 0.01
STATE, WEIGHTS = "state.pt", "adapter_model.safetensors"
# As large as a checkpoint has to be for a full disk to be noticed, and for a death in the middle of it.
BALLAST, BALLAST_BYTES = "ballast.bin", 1 << 18


@dataclass(frozen=True)
class Taken:
    """One step: its loss, before the weights moved, and the learning rate of the move."""

    step: int
    loss: float
    learning_rate: float


class Course:
    """A training of `total` steps."""

    def __init__(self, seed: int, total: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.seed, self.total, self.step = seed, total, 0
        source = torch.Generator().manual_seed(7)
        self._inputs = torch.randn(ROWS, FEATURES, generator=source)
        self._targets = self._inputs.pow(2).mean(1, keepdim=True)
        layers = (torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Dropout(0.1), torch.nn.Linear(HIDDEN, 1))
        self.model = torch.nn.Sequential(*layers)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: 1 - step / (total + 1))

    def take_step(self) -> Taken:
        rows = self._order(self.step // STEPS_AN_EPOCH)[self.step % STEPS_AN_EPOCH]
        noisy = self._inputs[rows] + 0.05 * torch.randn(BATCH, FEATURES)
        loss = torch.nn.functional.mse_loss(self.model(noisy), self._targets[rows])
        self._optimizer.zero_grad()
        loss.backward()
        rate = float(self._schedule.get_last_lr()[0])
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        return Taken(self.step, float(loss.detach()), rate)

    def _order(self, epoch: int) -> Any:
        source = torch.Generator().manual_seed(self.seed * 1000 + epoch)
        return torch.randperm(ROWS, generator=source).view(STEPS_AN_EPOCH, BATCH)

    def save(self, folder: Path) -> None:
        parts = (self.model, self._optimizer, self._schedule)
        state = {"parts": [part.state_dict() for part in parts], "random": torch.get_rng_state(), "step": self.step}
        torch.save(state, folder / STATE)
        (folder / BALLAST).write_bytes(b"\0" * BALLAST_BYTES)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / STATE, weights_only=True)
        for part, kept in zip((self.model, self._optimizer, self._schedule), state["parts"], strict=True):
            part.load_state_dict(kept)
        torch.set_rng_state(state["random"])
        self.step = state["step"]

    def weights(self) -> bytes:
        return to_bytes({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()})


def quiet_run(seed: int, total: int) -> tuple[list[Taken], bytes]:
    """What a training is that nothing interrupts: its steps, and the weights at its end."""
    course = Course(seed, total)
    taken = [course.take_step() for _ in range(total)]
    return taken, course.weights()
