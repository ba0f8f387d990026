"""The rows of a measurement: the same token ids for every rival, in the columns that a job's check writes.

Tokens are drawn so that small ids are frequent. A model of random weights learns that within a few steps, and so two
trainings whose losses agree have learned the same.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from app.contracts.rows import PREPARED, TRAIN_ROWS
from worker.checking.rows import SCHEMA, digest_of

# The lengths of chats: exp of a normal distribution with this mean and deviation, about 550 tokens.
CHAT_MEAN, CHAT_DEVIATION = 6.0, 0.8
LEAST_CHAT_TOKENS = 16
# The power of a uniform number that an id is drawn by.
STEEPNESS = 4


@dataclass(frozen=True)
class Scenario:
    """`shape` is a key of `bench.serving.SHAPES`. `steps` are the default number, with those that warm up."""

    shape: str
    max_tokens: int
    micro_batch: int
    accumulation: int
    steps: int
    draw_length: Callable[[random.Random, int], int]

    @property
    def step_rows(self) -> int:
        return self.micro_batch * self.accumulation

    def with_step_rows(self, rows: int | None) -> "Scenario":
        """The same with so many rows in a step, or nearly so: whole micro-batches."""
        return self if rows is None else replace(self, accumulation=max(1, rows // self.micro_batch))


def chat_length(chance: random.Random, most: int) -> int:
    return max(LEAST_CHAT_TOKENS, min(most, int(chance.lognormvariate(CHAT_MEAN, CHAT_DEVIATION))))


def full_length(_chance: random.Random, most: int) -> int:
    return most


SCENARIOS = {
    "chat": Scenario("3b", 2048, micro_batch=2, accumulation=4, steps=12, draw_length=chat_length),
    "full8k": Scenario("3b", 8192, micro_batch=1, accumulation=2, steps=10, draw_length=full_length),
    "full32k": Scenario("3b", 32_768, micro_batch=1, accumulation=1, steps=8, draw_length=full_length),
    "tiny": Scenario("tiny", 256, micro_batch=2, accumulation=4, steps=8, draw_length=chat_length),
}


def draw_rows(scenario: Scenario, steps: int, vocabulary: int) -> list[list[int]]:
    """The token ids of as many rows as the steps need: one epoch."""
    chance = random.Random(0)
    lengths = [scenario.draw_length(chance, scenario.max_tokens) for _ in range(scenario.step_rows * steps)]
    return [[int(vocabulary * chance.random() ** STEEPNESS) for _ in range(length)] for length in lengths]


def write_rows(rows: Sequence[Sequence[int]], folder: Path) -> Path:
    """Write the rows as the checker does, and return their file. Every token carries loss, as on the page.

    The folder is made. An adapter's description of its data is empty.
    """
    folder.mkdir()
    (folder / PREPARED).write_text("{}")
    columns = [
        range(1, len(rows) + 1), rows, rows, [0] * len(rows), [len(row) for row in rows],
        [digest_of(row) for row in rows],
    ]  # fmt: skip
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    path = folder / TRAIN_ROWS
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
    return path
