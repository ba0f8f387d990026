"""When an engine says what a trainer saw. Pure, so that every rule is a line of a table.

Compared are the log-probabilities of the very tokens that the trainer recorded: t with the adapter and b without it, in
the trainer, t' and b' in the engine, one of each for every token. The same weights never give the same numbers twice.

    base gap    mean |b' - b|     at most 0.1 of how far b spreads, and of b itself at least 0.015
    difference  mean |t' - t|     at most 10 times the base gap or the trainer's own noise, whichever is more
    strength    of the change: with L = t - b and S = t' - b', sum S S / sum S L; 1 for the adapter that was trained,
                told where the change is five times the rounding: the scatter of b' - b, the trainer's noise, or what
                its type makes of numbers of the size of b, whichever is most

What the two sides make of the base alone, which no adapter has touched, says how far apart rounding puts them. On tiny
random models of 49,000 and 128,000 tokens (`bench.proof`) float32 differs by 5e-7 on average, bfloat16 by 0.005 to
0.056; the difference with an adapter was never more than 1.8 times the gap of the base, 1.1 times where that was above
1e-5. On an H200 bfloat16 differs by 0.0004 to 0.001 on tiny models, and by 4.4 times as much with an adapter of rank 64
that counts eight times. On SmolLM2-135M bfloat16 differs by 0.06 on average and by 0.3 at most. The limits of
the strength are seven times what rounding over so many steps makes of it by chance, 3 % at least. What a training of a
step or two has changed may be less than rounding: then no more is asked than that it is as close.

A base that was trained on in 4 bits is another one in 16: there by 1.2 on average, 9 at most. There the changes are
compared, S against L, and the limits of the strength are wide. The right adapter has half its strength on a base of
other bits the other way round, L by S, and one of twice the strength all of it. That fits a change of which a part is
the trainer's own base's alone; it was measured, the reason was not shown.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean

from app.contracts.probe import Fit, Probe, ProbeStep, Proof, Unproved

# Token id to log-probability, of every token that the trainer recorded for a step.
Scores = Mapping[int, float]

# Differences that float32 on two kernels makes are below a tenth of this.
FINEST = 1e-4
# Of the spread: three times what bfloat16 against float32 does on average on the model above.
ROUNDING = 0.1
# Of the log-probabilities themselves: four times what bfloat16 does to random models, whose best tokens spread little
# and are unlikely all the same. Those of another seed are ten times as far away.
DEPTH = 0.015
# The same of values that were quantised and are rounded again, by an engine in bfloat16: twice what that does there.
REPEATED_DEPTH = 0.09
# The spacing of numbers around 1: how coarse a type is. That of float32 is below all else here.
EPSILON = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
# How much further apart trainer and engine may be with an adapter than without, where both are close without. Where
# both compute in bfloat16 and round a base alike, right adapters are up to 4.8 times as far apart as it is.
LEVERAGE = 10.0
# Of the spread: twice what 4 bits do to a base there.
QUANTISATION = 1.5
# Of what an adapter changes, how much may be otherwise on a base of another precision: 0.6 for the right one on the
# model above, 0.9 and more for another one, for a scrambled one and for none.
SHARE = 0.8
# How far above the noise of the trainer's own readings a change has to be, to be one.
ABOVE_NOISE = 3.0
# How far above it a change has to be before its strength can be told; noise makes it look stronger than it is.
CLEAR = 10.0
# On the same base: how far above rounding a change has to be, how far from 1 its strength may be at least, and how many
# times what rounding's share of the change makes of it by chance: the mean over as many steps.
CLEAR_OF_ROUNDING, STRAY, SURE = 5.0, 0.03, 7.0
# Between the right one (0.80 to 1.06 of the strength on the model above, in 4 bits, after 1 to 16 steps), one of half
# its strength (0.46 to 0.69) and one of twice (1.33 to 1.92); chosen on these numbers, tried on no other model.
WEAKEST, STRONGEST = 0.75, 1.2
# Below this an adapter has changed nothing.
NOTHING = 1e-6


def compare(probe: Probe, trained: Sequence[Scores], base: Sequence[Scores]) -> Proof:
    """Hold what the engine says against the probe. Both have one entry for each step of all prompts, in their order.

    `base` is what it says without the adapter; empty where the probe knows no base.
    """
    steps = [step for prompt in probe.prompts for step in prompt.steps]
    recorded, seen = _recorded(steps), _seen(steps, trained)
    gaps = _apart(recorded, seen)
    figures = Proof(proved=False, difference=fmean(gaps), largest_difference=max(gaps), tokens=len(gaps))
    limit = _limit(probe, recorded, quantised=False)
    if not probe.has_base:
        figures = figures.model_copy(update={"tolerance": _limit(probe, recorded, quantised=probe.quantised)})
        return _judged(figures, hopeless=_hopeless(probe, limit))
    recorded_base = [logprob for step in steps for logprob in step.base or ()]
    # What training has made flat rounds as its base does.
    limit = max(limit, _limit(probe, recorded_base, quantised=False))
    seen_base = _seen(steps, base)
    learned, shown = _minus(recorded, recorded_base), _minus(seen, seen_base)
    base_gap = fmean(_apart(recorded_base, seen_base))
    change, noise = fmean(map(abs, learned)), max(FINEST, ABOVE_NOISE * probe.noise)
    coarse, floor, clear = _coarse(probe, recorded_base), max(FINEST, probe.noise), CLEAR
    if not probe.quantised:
        # Of the same base the numbers differ by rounding alone; what moves all of them alike is in none of the changes.
        floor, clear = max(floor, coarse, _scatter(_minus(recorded_base, seen_base))), CLEAR_OF_ROUNDING
    is_told = change > clear * floor
    around = max(STRAY, SURE * floor / change / sqrt(len(steps))) if is_told else 0.0
    limits = (WEAKEST, STRONGEST) if probe.quantised else (1 - around, 1 + around)
    update = {
        "base_gap": base_gap,
        "base_tolerance": _limit(probe, recorded_base, quantised=probe.quantised),
        "base_difference": max(map(abs, shown)),
        "strength": _strength(learned, shown) if is_told else None,
        "strength_limits": limits if is_told else None,
        "tolerance": min(max(FINEST, LEVERAGE * max(base_gap, probe.noise)), limit),
    }
    if probe.quantised:
        update["difference"] = fmean(_apart(learned, shown))
        update["tolerance"] = max(noise, FINEST + SHARE * change)
    figures = figures.model_copy(update=update)
    return _judged(figures, has_learned=change > max(noise, coarse), hopeless=_hopeless(probe, limit))


def diverged(fit: Fit) -> Proof:
    """What comes of a probe whose trained model is worse than its base at the very rows that it was taught."""
    base = "" if fit.base is None else f", its base had {fit.base:.3g}"
    reason = (
        f"the training has diverged: on rows that it was trained on the model has a loss of {fit.trained:.3g}{base}, "
        f"and guessing has {fit.guessing:.3g}"
    )
    return Proof(proved=False, cause=Unproved.TRAINING_DIVERGED, reason=reason)


def _recorded(steps: Sequence[ProbeStep]) -> list[float]:
    return [logprob for step in steps for _, logprob in step.top]


def _seen(steps: Sequence[ProbeStep], scores: Sequence[Scores]) -> list[float]:
    """One for each recorded one, and of the very same tokens."""
    return [seen[token] for step, seen in zip(steps, scores, strict=True) for token, _ in step.top]


def _minus(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(some, others, strict=True)]


def _apart(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [abs(difference) for difference in _minus(some, others)]


def _scatter(numbers: Sequence[float]) -> float:
    """How far they are from their middle: what moves all alike is not in it."""
    middle = fmean(numbers)
    return fmean(abs(number - middle) for number in numbers)


def _coarse(probe: Probe, recorded: Sequence[float]) -> float:
    """What the trainer's own rounding makes of these numbers: an engine that rounds alike does not show it."""
    dtype = probe.dtype if probe.variant is None else "bfloat16"  # in which 4 and 8 bits may be multiplied
    return EPSILON.get(dtype, 0.0) * fmean(map(abs, recorded))


def _strength(learned: Sequence[float], shown: Sequence[float]) -> float:
    """How strong the change in the engine is, 1 being as trained; 0 for one that goes another way."""
    together = sum(one * other for one, other in zip(learned, shown, strict=True))
    return sum(one * one for one in shown) / together if together > 0 else 0.0


def _limit(probe: Probe, recorded: Sequence[float], *, quantised: bool) -> float:
    """How far from the recorded numbers those of the same weights may be, on average."""
    share = QUANTISATION if quantised else ROUNDING
    depth = DEPTH if probe.variant is None else REPEATED_DEPTH
    return max(FINEST, share * _scatter(recorded), depth * fmean(map(abs, recorded)))


def _hopeless(probe: Probe, limit: float) -> str | None:
    """What of the training itself explains that an engine says something else; None where nothing does."""
    if probe.noise > limit:
        return f"the trainer's own second reading of the model is {probe.noise:.3g} from its first"
    if probe.fit is not None and probe.fit.is_worse_than_base:
        return diverged(probe.fit).reason
    return None


def _judged(figures: Proof, *, has_learned: bool = False, hopeless: str | None) -> Proof:
    against = _against(figures, has_learned=has_learned)
    if against is None:
        return figures.model_copy(update={"proved": True})
    cause, reason = against
    if hopeless is not None and cause is not Unproved.BASE_DIFFERS:
        cause, reason = Unproved.TRAINING_DIVERGED, f"{hopeless}; {reason}"
    return figures.model_copy(update={"cause": cause, "reason": reason})


def _against(found: Proof, *, has_learned: bool) -> tuple[Unproved, str] | None:
    """What stands against it; None where nothing does."""
    if found.base_gap is not None and not _is_within(found.base_gap, found.base_tolerance):
        return Unproved.BASE_DIFFERS, (
            f"the base is another one: without the adapter its log-probabilities are {found.base_gap:.3g} from the "
            f"trainer's on average, at most {found.base_tolerance:.3g} are within reason"
        )
    if has_learned and found.base_difference is not None and found.base_difference < NOTHING:
        return Unproved.CHANGES_NOTHING, "it changes nothing: with it the model answers as its base does"
    if not _is_within(found.difference, found.tolerance):
        return Unproved.ADAPTER_DIFFERS, (
            f"its log-probabilities are {found.difference:.3g} from the trainer's on average, "
            f"at most {found.tolerance:.3g} are within reason"
        )
    if found.strength is not None and found.strength_limits is not None:
        weakest, strongest = found.strength_limits
        if not weakest <= found.strength <= strongest:
            return Unproved.STRENGTH_DIFFERS, (
                f"its change is {found.strength:.3g} times as strong as the one that the trainer saw, "
                f"{weakest:.3g} to {strongest:.3g} are within reason"
            )
    return None


def _is_within(value: float | None, limit: float | None) -> bool:
    assert value is not None, "what is judged was measured"
    assert limit is not None, "what is judged has a limit"
    return value <= limit
