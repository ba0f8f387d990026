"""What is done with one job by its user, and how it has to end."""

from dataclasses import dataclass
from random import Random
from typing import Any

from bench.chaos.stack import MODEL

SEEDS = (11, 12, 13)
STEPS = (30, 60, 90)
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
# Trainings that are still at work when the one that takes their place begins, if nothing ends them.
SLOW = "slow"
# What a training does once and another attempt makes good.
ONCE = ("exit", "quit", "segv", "ignore_term", "hang", "flood", "orphan")


@dataclass(frozen=True)
class Action:
    """Something that the user asks for: a path below the job, and from when on, in seconds after it was accepted."""

    after_seconds: float
    path: str
    needs_phase: str | None = None


@dataclass(frozen=True)
class Plan:
    """One job."""

    key: str
    name: str
    seed: int
    steps: int
    labels: dict[str, str]
    actions: tuple[Action, ...]
    ends: tuple[str, ...]
    error_code: str | None = None
    is_poison: bool = False
    save_steps: int | str = 5

    def body(self, file: str) -> dict[str, Any]:
        return {
            "name": self.name.replace("_", "-"),
            "labels": {"chaos": self.key, **self.labels},
            "project": f"project-{self.seed}",
            "model": {"model_name": MODEL, "max_seq_length": 256, "load_in_4bit": False},
            "dataset": {"source": {"file": file}},
            "training": {"max_steps": self.steps, "seed": self.seed, "save_steps": self.save_steps},
        }


USUAL = ",".join(
    ("plain",) * 8
    + ("cancel",) * 2
    + ("pause",) * 3
    + ("checkpoint",) * 2
    + ("misbehave",) * 4
    + ("user_error", "poison")
)


@dataclass
class Planner:
    """Makes plans by chance, the same ones for the same seed.

    `names`: what to choose from; "misbehave:hang" is a training that hangs once, "misbehave" one of any kind.
    """

    rng: Random
    names: tuple[str, ...]
    made: int = 0

    def next(self) -> Plan:
        self.made += 1
        rng = self.rng
        name, _, how = rng.choice(self.names).partition(":")
        labels = {"step_seconds": rng.choice(("0.02", "0.05", "0.1"))}
        actions: tuple[Action, ...] = ()
        ends: tuple[str, ...] = (SUCCEEDED,)
        code, is_poison = None, False
        phase = rng.choice((None, None, "train", "load", "save"))
        match name:
            case "cancel":
                actions = (Action(rng.uniform(0, 15), "cancel", phase),)
                ends = (SUCCEEDED, CANCELLED)
            case "pause":
                first = rng.uniform(0, 12)
                actions = (Action(first, "pause", phase), Action(first + rng.uniform(0, 8), "resume"))
            case "checkpoint":
                actions = tuple(Action(rng.uniform(3, 12), "checkpoint", "train") for _ in range(3))
            case "misbehave":
                labels |= {"misbehave": how or rng.choice(ONCE), "misbehave_at": str(rng.randint(1, 25))}
            case "slow":
                labels["step_seconds"] = "0.3"
            case "user_error":
                labels |= {"misbehave": "user_error", "misbehave_at": "3", "misbehave_always": "1"}
                ends, code = (FAILED,), "bad_idea"
            case "poison":
                labels |= {"misbehave": "exit", "misbehave_at": "1", "misbehave_always": "1"}
                ends, is_poison = (CANCELLED,), True
        saves: int | str = rng.choice((5, 5, 8, "auto"))
        steps, seed = rng.choice(STEPS), rng.choice(SEEDS)
        key = f"{name}-{self.made}"
        return Plan(key, name, seed, steps, labels, actions, ends, code, is_poison, saves)
