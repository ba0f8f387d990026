"""The trainings whose adapters have to be proved: every way to train that changes what an engine has to say again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

STEPS = (1, 1, 2, 3, 4, 6, 8, 13, 21, 34, 60)
RATES = (1e-5, 1e-4, 2e-4, 1e-3, 5e-3, 2e-2)
RANKS = (1, 4, 8, 16, 64)
DTYPES = ("float32", "bfloat16", "float16")
ATTENTION, ALL = ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Of every ten trainings so many are not Unsloth's: it quantises nothing on a CPU, and a spec has no DoRA.
NOT_BY_RECIPE = {3: "nf4", 6: "dora"}


@dataclass(frozen=True)
class BaseKind:
    """A tiny random model. `spread` is that of its weights: the larger, the further apart its log-probabilities."""

    vocabulary: int
    spread: float
    seed: int

    @property
    def name(self) -> str:
        return f"base-{self.vocabulary}-{self.spread}-{self.seed}"


BASES = tuple(
    BaseKind(vocabulary, spread, seed)
    for seed, (vocabulary, spread) in enumerate([(49_152, 0.08), (128_256, 0.08), (49_152, 0.02), (128_256, 0.2)])
)


@dataclass(frozen=True)
class Case:
    """One training. `way`: by the recipe of a job, or by PEFT alone on a base in four bits, or of DoRA."""

    number: int
    base: BaseKind
    way: Literal["recipe", "nf4", "dora"]
    dtype: str
    steps: int
    learning_rate: float
    r: int
    use_rslora: bool
    lora_dropout: float
    target_modules: tuple[str, ...]
    seed: int

    def lora(self) -> dict[str, Any]:
        names = ("r", "use_rslora", "lora_dropout")
        common = {name: getattr(self, name) for name in names}
        return {**common, "lora_alpha": 2 * self.r, "target_modules": list(self.target_modules)}


def cases(count: int, seed: int) -> Iterator[Case]:
    """The same ones for the same numbers: each value is drawn by itself."""
    rng = random.Random(seed)
    for number in range(count):
        way: Any = NOT_BY_RECIPE.get(number % 10, "recipe")
        yield Case(
            number=number,
            base=BASES[number % len(BASES)],
            way=way,
            dtype=rng.choice(DTYPES) if way == "recipe" else "float32",
            steps=rng.choice(STEPS),
            learning_rate=rng.choice(RATES),
            r=rng.choice(RANKS),
            use_rslora=rng.random() < 0.25,
            lora_dropout=rng.choice((0.0, 0.0, 0.1)),
            target_modules=rng.choice((ATTENTION, ALL)),
            seed=rng.randrange(10_000),
        )
