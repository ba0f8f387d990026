"""When an engine says what a trainer saw. Pure, so that every rule is a line of a table.

The same weights never give the same numbers twice. bfloat16 rounds: on SmolLM2-135M the log-probabilities of the best
five tokens differ by 0.06 on average from those in float32, at most by 0.3; float16 by a tenth of that. And a base that
was trained on in 4 bits is another one in 16: there by 1.2 on average, 9 at most, so that no limit on single values
holds. Means are compared; what the two sides make of the base alone, which no adapter has touched, says how far apart
they may be with the adapter; and limits are shares of how much the recorded numbers themselves spread, because rounding
grows with them. What a training of a step or two has changed may be less than rounding makes of the same model read
twice, or once by each side (after two to six steps in bfloat16 0.06 to 0.09, where rounding puts the bases 0.05 apart):
then no more is asked of the engine than that it is as close.

A mean hides a scale: an adapter at twice its strength is as near to the right change as half of it is missing on a base
of other bits. So the strength is asked for by itself: the trainer's change measured by the engine's (least squares).
The other way round the right adapter has half its strength on a base of other bits, and one of twice the strength all
of it. That fits a change of which a part is the trainer's own base's alone; it was measured, the reason was not shown.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from app.contracts.probe import Probe, Proof, Step

# Token id to log-probability: the token that came, and the best ones.
Scores = Mapping[int, float]

# Differences that float32 on two kernels makes are below a hundredth of this.
FINEST = 1e-3
# Of the spread: three times what bfloat16 against float32 does on average on the model above.
ROUNDING = 0.1
# How much further apart trainer and engine may be with an adapter than without, where both are close without.
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
    if not probe.has_base:
        return _judged(figures.model_copy(update={"tolerance": _limit(recorded, quantised=probe.quantised)}))
    recorded_base = [logprob for step in steps for logprob in step.base or ()]
    seen_base = _seen(steps, base)
    learned, shown = _minus(recorded, recorded_base), _minus(seen, seen_base)
    base_gap = fmean(_apart(recorded_base, seen_base))
    change, noise = fmean(map(abs, learned)), max(FINEST, ABOVE_NOISE * probe.noise)
    # Of the same base the numbers differ by rounding alone; what moves all of them alike is in none of the changes.
    rounding = 0.0 if probe.quantised else _scatter(_minus(recorded_base, seen_base))
    update = {
        "base_gap": base_gap,
        "base_tolerance": _limit(recorded_base, quantised=probe.quantised),
        "base_difference": max(map(abs, shown)),
        "strength": _strength(learned, shown) if change > CLEAR * max(FINEST, probe.noise, rounding) else None,
        "tolerance": min(max(FINEST, LEVERAGE * base_gap), _limit(recorded, quantised=False)),
    }
    if probe.quantised:
        update["difference"] = fmean(_apart(learned, shown))
        update["tolerance"] = max(noise, FINEST + SHARE * change)
    return _judged(figures.model_copy(update=update), has_learned=change > noise)


def _recorded(steps: Sequence[Step]) -> list[float]:
    return [logprob for step in steps for _, logprob in step.top]


def _seen(steps: Sequence[Step], scores: Sequence[Scores]) -> list[float]:
    """One for each recorded one. A token that the engine does not name is as unlikely as the last that it does."""
    pairs = zip(steps, scores, strict=True)
    return [seen.get(token, min(seen.values())) for step, seen in pairs for token, _ in step.top]


def _minus(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(some, others, strict=True)]


def _apart(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [abs(difference) for difference in _minus(some, others)]


def _scatter(numbers: Sequence[float]) -> float:
    """How far they are from their middle: what moves all alike is not in it."""
    middle = fmean(numbers)
    return fmean(abs(number - middle) for number in numbers)


def _strength(learned: Sequence[float], shown: Sequence[float]) -> float:
    """How strong the change in the engine is, 1 being as trained; 0 for one that goes another way."""
    together = sum(one * other for one, other in zip(learned, shown, strict=True))
    return sum(one * one for one in shown) / together if together > 0 else 0.0


def _limit(recorded: Sequence[float], *, quantised: bool) -> float:
    """How far from the recorded numbers those of the same weights may be, on average."""
    return max(FINEST, (QUANTISATION if quantised else ROUNDING) * _scatter(recorded))


def _judged(figures: Proof, *, has_learned: bool = False) -> Proof:
    reason = _reason(figures, has_learned=has_learned)
    return figures.model_copy(update={"proved": reason is None, "reason": reason})


def _reason(found: Proof, *, has_learned: bool) -> str | None:
    """What stands against it; None where nothing does."""
    if found.base_gap is not None and not _is_within(found.base_gap, found.base_tolerance):
        return (
            f"the base is another one: its log-probabilities are {found.base_gap:.3g} from the trainer's on average, "
            f"at most {found.base_tolerance:.3g} are within reason"
        )
    if has_learned and found.base_difference is not None and found.base_difference < NOTHING:
        return "it changes nothing: with it the model answers as its base does"
    if not _is_within(found.difference, found.tolerance):
        return (
            f"its log-probabilities are {found.difference:.3g} from the trainer's on average, "
            f"at most {found.tolerance:.3g} are within reason"
        )
    if found.strength is not None and not WEAKEST <= found.strength <= STRONGEST:
        return f"its change is {found.strength:.3g} times as strong as the one that the trainer saw"
    return None


def _is_within(value: float | None, limit: float | None) -> bool:
    assert value is not None, "what is judged was measured"
    assert limit is not None, "what is judged has a limit"
    return value <= limit
