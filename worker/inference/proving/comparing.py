"""Decides whether an engine computes what the trainer computed. Pure functions, tested by tables.

The log-probabilities of the tokens that the trainer recorded are compared, one number per token: t with the adapter and
b without it, in the trainer; t' and b' in the engine. Even the same weights never give exactly the same numbers.

    base gap    mean |b' - b|     at most 0.1 of the spread of b, or 0.015 of the size of b if that is more
    difference  mean |t' - t|     at most 10 times the base gap or the trainer's own noise, whichever is more
    strength    of the change: with L = t - b and S = t' - b', sum S S / sum S L; 1 for the adapter that was trained.
                It is computed only if the change is five times the rounding: the scatter of b' - b, the trainer's
                noise, or the rounding of numbers as large as b in the trainer's type, whichever is most

The base gap measures rounding, because no adapter affects it. On tiny random models of 49,000 and 128,000 tokens
(`bench.proof`) float32 differs by 5e-7 on average, bfloat16 by 0.005 to 0.056; the difference with an adapter was never
more than 1.8 times the base gap, and 1.1 times where that was above 1e-5. On an H200 bfloat16 differs by 0.0004 to
0.001 on tiny models, and by 4.4 times as much with an adapter of rank 64 and scale 8. On SmolLM2-135M bfloat16 differs
by 0.06 on average and by 0.3 at most. The limits of the strength are seven times the random effect of rounding over
this many steps, but at least 3 % and at most 25 %. Where few steps have most of the change, that effect is larger: it
is the standard error of the strength, computed from the strengths without each of the steps. A training of one or two
steps may change less than rounding does: then only the difference is checked.

A base that was trained on in 4 bits differs from the same base in 16 bits, on SmolLM2-135M by 1.2 on average and by 9
at most. For such bases the changes S and L are compared, and the limits of the strength are wide. Comparing means
cannot detect a wrong scale there: an adapter applied at twice its strength is about as far off as one at half. Hence
the separate least-squares estimate of strength. Computed the other way round, sum L S / sum L L, the right adapter
would have half its strength on a base of other bits, and one of twice the strength would have 1. This fits a part of
the change that exists only on the trainer's own base; it was measured, the reason was not shown.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from math import sqrt
from statistics import fmean

from app.contracts.probe import Fit, Probe, ProbeStep, Proof, Unproved

# Log-probabilities by token id, for every token that the trainer recorded for a step.
Scores = Mapping[int, float]

# Two float32 kernels differ by less than a tenth of this.
FINEST = 1e-4
# Share of the spread: three times the average difference of bfloat16 and float32 on SmolLM2-135M.
ROUNDING = 0.1
# Share of the log-probabilities: four times the effect of bfloat16 on random models, whose best tokens have a small
# spread and a low probability. A model of another seed is ten times as far away.
DEPTH = 0.015
# The same share for a de-quantised base, whose values an engine in bfloat16 rounds again: twice the effect of that.
REPEATED_DEPTH = 0.09
# The spacing of numbers around 1. That of float32 is below all other limits here.
EPSILON = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
# How many times further apart trainer and engine may be with the adapter than without it. If both compute in bfloat16
# and round the base alike, right adapters are up to 4.8 times as far apart as the base.
LEVERAGE = 10.0
# Share of the spread: twice the effect of 4 bits on the base there.
QUANTISATION = 1.5
# The share of an adapter's change that may differ on a base of another precision. It is 0.6 for the right adapter on
# SmolLM2-135M, and 0.9 or more for another adapter, for scrambled weights and for none.
SHARE = 0.8
# A change counts if it is this many times the noise between two of the trainer's own runs.
ABOVE_NOISE = 3.0
# The strength is computed if the change is this many times the noise; noise makes it look stronger than it is.
CLEAR = 10.0
# On the same base: how many times the rounding a change must be, how far the strength may be from 1 in any case, and
# how many times the random effect of rounding on the strength (a mean over as many steps) is allowed.
CLEAR_OF_ROUNDING, STRAY, SURE = 5.0, 0.03, 7.0
# How far it may be from 1 whatever the random effect: an adapter at half or at twice its strength is further.
FAR = 0.25
# Limits between the right adapter (0.80 to 1.06 of the strength on SmolLM2-135M in 4 bits, after 1 to 16 steps), half
# of its strength (0.46 to 0.69) and twice its strength (1.33 to 1.92). They were chosen on these numbers and tested on
# no other model.
WEAKEST, STRONGEST = 0.75, 1.2
# Below this an adapter changes nothing.
NOTHING = 1e-6


def compare(probe: Probe, trained: Sequence[Scores], base: Sequence[Scores]) -> Proof:
    """Compare the engine's log-probabilities with the probe. Both have one entry for each step of all prompts, in
    order.

    `base` are the engine's numbers without the adapter; empty if the probe has none for the base.
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
    # Where training has flattened the distribution, rounding is still that of the base.
    limit = max(limit, _limit(probe, recorded_base, quantised=False))
    seen_base = _seen(steps, base)
    learned, shown = _minus(recorded, recorded_base), _minus(seen, seen_base)
    base_gap = fmean(_apart(recorded_base, seen_base))
    change, noise = fmean(map(abs, learned)), max(FINEST, ABOVE_NOISE * probe.noise)
    coarse, floor, clear = _coarse(probe, recorded_base), max(FINEST, probe.noise), CLEAR
    if not probe.quantised:
        # On the same base the numbers differ only by rounding; a shift that is common to all of them does not affect
        # changes.
        floor, clear = max(floor, coarse, _scatter(_minus(recorded_base, seen_base))), CLEAR_OF_ROUNDING
    is_clear = change > clear * floor
    random_effect = max(floor / change / sqrt(len(steps)), _standard_error(steps, learned, shown)) if is_clear else 0.0
    around = min(FAR, max(STRAY, SURE * random_effect))
    limits = (WEAKEST, STRONGEST) if probe.quantised else (1 - around, 1 + around)
    update = {
        "base_gap": base_gap,
        "base_tolerance": _limit(probe, recorded_base, quantised=probe.quantised),
        "base_difference": max(map(abs, shown)),
        "strength": _strength(learned, shown) if is_clear else None,
        "strength_limits": limits if is_clear else None,
        "tolerance": min(max(FINEST, LEVERAGE * max(base_gap, probe.noise)), limit),
    }
    if probe.quantised:
        update["difference"] = fmean(_apart(learned, shown))
        update["tolerance"] = max(noise, FINEST + SHARE * change)
    figures = figures.model_copy(update=update)
    return _judged(figures, has_learned=change > max(noise, coarse), hopeless=_hopeless(probe, limit))


def diverged(fit: Fit) -> Proof:
    """The result for a trained model that is worse than its base on the rows that it was trained on."""
    base = "" if fit.base is None else f", its base had {fit.base:.3g}"
    reason = (
        f"the training has diverged: on rows that it was trained on the model has a loss of {fit.trained:.3g}{base}, "
        f"and guessing has {fit.guessing:.3g}"
    )
    return Proof(proved=False, cause=Unproved.TRAINING_DIVERGED, reason=reason)


def _recorded(steps: Sequence[ProbeStep]) -> list[float]:
    return [logprob for step in steps for _, logprob in step.top]


def _seen(steps: Sequence[ProbeStep], scores: Sequence[Scores]) -> list[float]:
    """The engine's log-probabilities of the recorded tokens, in the order of `_recorded`."""
    return [seen[token] for step, seen in zip(steps, scores, strict=True) for token, _ in step.top]


def _minus(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(some, others, strict=True)]


def _apart(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [abs(difference) for difference in _minus(some, others)]


def _scatter(numbers: Sequence[float]) -> float:
    """The mean distance from the mean, which ignores a shift that is common to all numbers."""
    middle = fmean(numbers)
    return fmean(abs(number - middle) for number in numbers)


def _coarse(probe: Probe, recorded: Sequence[float]) -> float:
    """The effect of the trainer's own rounding on these numbers, which is invisible if the engine rounds alike."""
    dtype = probe.dtype if probe.variant is None else "bfloat16"  # 4 and 8 bits may be multiplied in bfloat16
    return EPSILON.get(dtype, 0.0) * fmean(map(abs, recorded))


def _strength(learned: Sequence[float], shown: Sequence[float]) -> float:
    """The strength of the change in the engine: 1 as trained, 0 if it goes in another direction."""
    together = sum(one * other for one, other in zip(learned, shown, strict=True))
    return sum(one * one for one in shown) / together if together > 0 else 0.0


def _standard_error(steps: Sequence[ProbeStep], learned: Sequence[float], shown: Sequence[float]) -> float:
    """The standard error of the strength, by the jackknife: how much it differs where one step is left out (Efron and
    Tibshirani, 1993, chapter 11). It is large if few steps have most of the change."""
    pairs = iter(list(zip(learned, shown, strict=True)))
    of_steps = [list(islice(pairs, len(step.top))) for step in steps]
    squares = [sum(other * other for _, other in part) for part in of_steps]
    products = [sum(one * other for one, other in part) for part in of_steps]
    left = [(sum(squares) - square, sum(products) - product) for square, product in zip(squares, products, strict=True)]
    without = [square / product for square, product in left if product > 0]
    middle = fmean(without) if without else 0.0
    return sqrt(sum((one - middle) ** 2 for one in without))


def _limit(probe: Probe, recorded: Sequence[float], *, quantised: bool) -> float:
    """The largest mean difference from the recorded numbers that the same weights can have."""
    share = QUANTISATION if quantised else ROUNDING
    depth = DEPTH if probe.variant is None else REPEATED_DEPTH
    return max(FINEST, share * _scatter(recorded), depth * fmean(map(abs, recorded)))


def _hopeless(probe: Probe, limit: float) -> str | None:
    """A defect of the training that explains a difference. Returns None if there is none."""
    if probe.noise > limit:
        return f"the trainer's own two runs of the model differ by {probe.noise:.3g}"
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
    """The reason why the adapter is not proved. Returns None if there is none."""
    if found.base_gap is not None and not _is_within(found.base_gap, found.base_tolerance):
        return Unproved.BASE_DIFFERS, (
            f"the base has other weights: without the adapter its log-probabilities are {found.base_gap:.3g} from the "
            f"trainer's on average, at most {found.base_tolerance:.3g} are within reason"
        )
    if has_learned and found.base_difference is not None and found.base_difference < NOTHING:
        return Unproved.CHANGES_NOTHING, "it changes nothing: the model answers as its base does"
    if not _is_within(found.difference, found.tolerance):
        return Unproved.ADAPTER_DIFFERS, (
            f"its log-probabilities are {found.difference:.3g} from the trainer's on average, "
            f"at most {found.tolerance:.3g} are within reason"
        )
    if found.strength is not None and found.strength_limits is not None:
        weakest, strongest = found.strength_limits
        if not weakest <= found.strength <= strongest:
            return Unproved.STRENGTH_DIFFERS, (
                f"its change is {found.strength:.3g} times as strong as in the trainer, "
                f"{weakest:.3g} to {strongest:.3g} are within reason"
            )
    return None


def _is_within(value: float | None, limit: float | None) -> bool:
    assert value is not None, "what is judged was measured"
    assert limit is not None, "what is judged has a limit"
    return value <= limit
