"""Measures both kinds of error of the proof: right adapters that it refuses, and wrong ones that it takes.

usage: python -m bench.proof WORK_DIR [--cases 200] [--seed 1] [--tampered 12]

Trains tiny models in all ways that change what an engine has to say again, and proves each adapter in an engine of
float32 and in one of bfloat16. Some of them are then tampered with in 14 ways, each proved three times: as the files
are (`files`: their hash is the bundle's version), as if a fault had changed them before they were hashed (`weights`:
what the trainer had in memory is recorded in the probe), and by log-probabilities alone (`scores`). Bundles in WORK_DIR
are used again, so that a run that was ended goes on. Prints one JSON document; exit code 1 for a false refusal.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.proof.cases import Case, cases
from bench.proof.holding import Holding
from bench.proof.tampering import TAMPERINGS
from bench.proof.trainings import Trainings, trainers

AT_ONCE = 2
ENGINES = ("float32", "bfloat16")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tampered", type=int, default=12)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    chosen = sorted(cases(options.cases, options.seed), key=lambda case: case.base.name)
    with trainers(options.work.resolve()):
        trainings = Trainings(options.work.resolve())
        for case in chosen:
            trainings.rows(trainings.base(case.base))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            bundles = list(pool.map(trainings.train, chosen))
    trained = list(zip(chosen, bundles, strict=True))
    with ThreadPoolExecutor(len(ENGINES)) as pool:
        found = pool.map(lambda dtype: refused(trainings, trained, dtype), ENGINES)
        refusals = dict(zip(ENGINES, found, strict=True))
    shown = [pair for pair in trained if pair[0].way == "recipe" and pair[0].steps >= 8][: options.tampered]
    report = {"right": refusals, "tampered": tampered(trainings, shown), "trained": described(chosen)}
    print(json.dumps(report, indent=1))
    return 1 if any(one["refused"] for one in refusals.values()) else 0


def refused(trainings: Trainings, trained: Sequence[tuple[Case, Path]], dtype: str) -> dict[str, Any]:
    """How many right adapters were refused, with what was found of each, and how near to the limits the others came."""
    found: list[dict[str, Any]] = []
    strengths: list[float] = []
    shares: dict[str, float] = {"difference": 0.0, "base_gap": 0.0}
    with Holding(dtype) as holding:
        for case, bundle in trained:
            proof = holding.proof_of(bundle, trainings.base(case.base))
            print(dtype, case.number, proof.proved, proof.cause, file=sys.stderr, flush=True)
            if not proof.proved:
                found.append({"case": repr(case), "proof": proof.model_dump(mode="json")})
                continue
            if proof.strength is not None:
                strengths.append(proof.strength)
            for name, limit in (("difference", proof.tolerance), ("base_gap", proof.base_tolerance)):
                shares[name] = max(shares[name], (getattr(proof, name) or 0.0) / (limit or 1.0))
    spread = [min(strengths), max(strengths)] if strengths else None
    return {
        "proofs": len(trained),
        "refused": len(found),
        "largest_share_of_limit": shares,
        "strengths": spread,
        "of_these": found,
    }


def tampered(trainings: Trainings, shown: Sequence[tuple[Case, Path]]) -> dict[str, Any]:
    """Of each kind, by which look at the bundle so many were caught, and by how much those differ that none caught."""
    table: dict[str, Any] = {}
    with Holding(ENGINES[0]) as holding:
        for kind in TAMPERINGS:
            outcomes = [holding.tamper(kind, case, bundle, trainings) for case, bundle in shown]
            tried = [outcome for outcome in outcomes if outcome is not None]
            table[kind] = {
                "tried": len(tried),
                "caught": dict(Counter(look for outcome in tried for look in outcome.caught)),
                "causes": dict(Counter(outcome.cause for outcome in tried if outcome.cause is not None)),
                "missed_by_scores": [outcome.missed for outcome in tried if outcome.missed is not None],
            }
            print(kind, table[kind], file=sys.stderr, flush=True)
    return table


def described(chosen: Sequence[Case]) -> dict[str, dict[str, int]]:
    """How many trainings had which value."""
    names = ("way", "dtype", "steps", "learning_rate", "r", "use_rslora")
    table = {name: Counter(str(getattr(case, name)) for case in chosen) for name in names}
    table["vocabulary"] = Counter(str(case.base.vocabulary) for case in chosen)
    return {name: dict(sorted(counts.items())) for name, counts in table.items()}


if __name__ == "__main__":
    sys.exit(main())
