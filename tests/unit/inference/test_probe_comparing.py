"""When an engine says what a trainer saw: every rule with numbers on both sides of it."""

from collections.abc import Mapping
from math import hypot, sqrt

import pytest

from app.contracts.probe import Fit, Probe, ProbePrompt, ProbeStep, Proof, Unproved
from worker.inference.proving.comparing import QUANTISATION, ROUNDING, compare

TRAINED = ((7, -0.1), (8, -2.5), (9, -4.0))
BASE = (-3.0, -1.0, -2.0)
Shifts = tuple[float, float, float]
STILL: Shifts = (0.0, 0.0, 0.0)


def a_probe(*, base: tuple[float, ...] | None = BASE, quantised: bool = False, noise: float = 0.0) -> Probe:
    step = ProbeStep(top=TRAINED, base=base)
    prompt = ProbePrompt(ids=(1, 2), steps=(step, step))
    return Probe(dtype="float32", quantised=quantised, noise=noise, prompts=(prompt,))


def scores(numbers: tuple[float, ...], shifts: Shifts = STILL) -> Mapping[int, float]:
    ids = [token for token, _ in TRAINED]
    return {token: number + shift for token, number, shift in zip(ids, numbers, shifts, strict=True)}


def hold(probe: Probe, trained: Shifts = STILL, base: Shifts = STILL) -> Proof:
    """What is made of an engine whose numbers are so far from the trainer's."""
    with_it = scores(tuple(number for _, number in TRAINED), trained)
    without = scores(probe.prompts[0].steps[0].base or (), base) if probe.has_base else None
    return compare(probe, [with_it] * 2, [without] * 2 if without is not None else [])


# How far the engine is from the trainer with the adapter, and without it; whether the adapter is proved.
SHIFTED: dict[str, tuple[Shifts, Shifts, bool]] = {
    "the same": (STILL, STILL, True),
    "float32 on another kernel": ((1e-5, -1e-5, 1e-5), (1e-5, 1e-5, -1e-5), True),
    "below what counts": ((9e-5, 9e-5, -9e-5), STILL, True),
    "above it, where the bases agree": ((2e-4, 2e-4, -2e-4), STILL, False),
    "as far apart as bfloat16 puts the bases": ((0.12, -0.12, 0.12), (0.05, -0.05, 0.05), True),
    "one token far away, as rounding does it": ((0.0, 0.0, 0.36), (0.05, -0.05, 0.05), True),
    "further than the bases explain": ((0.12, -0.12, 0.12), (0.01, -0.01, 0.01), False),
    "bases as far apart as rounding puts them": (STILL, (0.06, 0.06, 0.06), True),
    "another base": (STILL, (0.07, 0.07, 0.07), False),
    "further than any rounding": ((0.15, 0.15, 0.15), (0.06, 0.06, 0.06), False),
    "the base's own numbers": ((-2.9, 1.5, 2.0), STILL, False),
}


@pytest.mark.parametrize(("trained", "base", "is_proved"), SHIFTED.values(), ids=SHIFTED)
def test_an_adapter_is_proved_by_what_the_bases_explain(trained: Shifts, base: Shifts, is_proved: bool) -> None:
    assert hold(a_probe(), trained, base).proved is is_proved


@pytest.mark.parametrize(
    ("trained", "base", "cause", "reason"),
    [
        (STILL, (1.0, 1.0, 1.0), Unproved.BASE_DIFFERS, "the base has other weights"),
        ((1.0, 1.0, 1.0), STILL, Unproved.ADAPTER_DIFFERS, "its log-probabilities are 1 from the trainer's"),
        ((-2.9, 1.5, 2.0), STILL, Unproved.CHANGES_NOTHING, "it changes nothing"),
    ],
)
def test_what_stands_against_it_is_said_in_words(trained: Shifts, base: Shifts, cause: Unproved, reason: str) -> None:
    proof = hold(a_probe(), trained, base)

    assert (proof.proved, proof.cause) == (False, cause)
    assert proof.reason is not None
    assert reason in proof.reason


def test_the_figures_are_those_that_were_compared() -> None:
    proof = hold(a_probe(), (0.03, -0.06, 0.0), (0.0, 0.0, 0.03))

    assert proof.difference == pytest.approx(0.03)
    assert proof.largest_difference == pytest.approx(0.06)
    assert proof.base_gap == pytest.approx(0.01)
    assert proof.base_tolerance == pytest.approx(ROUNDING * 2 / 3)
    assert proof.tolerance == pytest.approx(0.1)
    assert proof.base_difference == pytest.approx(2.93)
    assert proof.tokens == 6


def test_an_adapter_that_learned_nothing_may_change_nothing() -> None:
    numbers = tuple(number for _, number in TRAINED)

    assert hold(a_probe(base=numbers)).proved


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize(("noise", "is_proved"), [(0.0, False), (0.02, False), (0.04, True)])
def test_what_a_first_step_taught_may_be_less_than_noise(noise: float, quantised: bool, is_proved: bool) -> None:
    """The engine says the same with the adapter and without."""
    hardly = tuple(number - 0.1 for _, number in TRAINED)
    probe = a_probe(base=hardly, quantised=quantised, noise=noise)

    proof = hold(probe, (-0.08, -0.12, -0.08), (0.02, -0.02, 0.02))

    assert proof.proved is is_proved


CHANGE = tuple(number - base for (_, number), base in zip(TRAINED, BASE, strict=True))
ASIDE = (1.5, 2.9, 0.0)  # at a right angle to the change
LEVEL = (0.9, -0.9, 0.9)


def hold_change(probe: Probe, shared: float, strength: float = 1.0) -> Proof:
    """On a base of another level the engine's change is that share of the trainer's which is not its base's own."""
    aside = sqrt(shared * (1 - shared)) * hypot(*CHANGE) / hypot(*ASIDE)
    seen = [strength * (shared * along + aside * other) for along, other in zip(CHANGE, ASIDE, strict=True)]
    first, second, third = (level + new - old for level, new, old in zip(LEVEL, seen, CHANGE, strict=True))
    return hold(probe, (first, second, third), LEVEL)


@pytest.mark.parametrize(("shared", "is_proved"), [(1.0, True), (0.5, True), (0.15, False), (0.0, False)])
def test_on_a_base_of_other_bits_the_change_is_compared_and_not_the_level(shared: float, is_proved: bool) -> None:
    proof = hold_change(a_probe(quantised=True), shared)

    assert proof.proved is is_proved
    assert proof.base_gap == pytest.approx(0.9)


@pytest.mark.parametrize("shared", [1.0, 0.9, 0.5])
@pytest.mark.parametrize(
    ("strength", "is_proved"),
    [(0.25, False), (0.5, False), (0.7, False), (0.8, True), (1.0, True), (1.15, True), (1.3, False), (2.0, False)],
)
def test_an_adapter_that_is_stronger_or_weaker_than_trained_is_another_one(
    shared: float, strength: float, is_proved: bool
) -> None:
    """As with a lora_alpha of twice the size, whatever share of the change is the trainer's base's own."""
    proof = hold_change(a_probe(quantised=True), shared, strength)

    assert proof.proved is is_proved
    assert proof.strength == pytest.approx(strength)


def test_an_adapter_that_turns_the_change_around_has_no_strength() -> None:
    shifts = tuple(-2 * change for change in CHANGE)

    proof = hold(a_probe(quantised=True), (shifts[0], shifts[1], shifts[2]))

    assert (proof.proved, proof.strength) == (False, 0.0)


@pytest.mark.parametrize(("noise", "strength"), [(0.0, 2.0), (0.2, 2.0), (0.22, None)])
def test_strength_is_told_of_a_change_that_is_clear_of_the_noise(noise: float, strength: float | None) -> None:
    proof = hold_change(a_probe(quantised=True, noise=noise), 1.0, 2.0)

    assert proof.strength == (pytest.approx(strength) if strength is not None else None)


@pytest.mark.parametrize("damage", [2.0, 0.5])
def test_a_change_that_is_less_than_rounding_between_the_bases_has_its_strength_checked(damage: float) -> None:
    small = tuple(number - 0.05 * change for (_, number), change in zip(TRAINED, CHANGE, strict=True))
    shifts = tuple((damage - 1) * 0.05 * change for change in CHANGE)

    proof = hold(a_probe(base=small), (shifts[0] + 0.05, shifts[1] + 0.05, shifts[2] + 0.05), (0.05, 0.05, 0.05))

    assert proof.cause is Unproved.STRENGTH_DIFFERS
    assert proof.strength == pytest.approx(damage)


@pytest.mark.parametrize(("share", "is_told"), [(0.05, False), (0.1, False), (0.3, True), (1.0, True)])
@pytest.mark.parametrize("damage", [1.0, 2.0])
def test_a_change_that_rounding_scatters_over_tells_no_strength(share: float, is_told: bool, damage: float) -> None:
    """As of a training of a few steps in bfloat16: what the two sides make of the base is as far apart."""
    less = tuple(number - share * change for (_, number), change in zip(TRAINED, CHANGE, strict=True))
    more = [(damage - 1) * share * change for change in CHANGE]
    rounding = (-0.06, 0.06, -0.03)

    proof = hold(a_probe(base=less), (more[0] + 0.06, more[1] + 0.06, more[2] - 0.03), rounding)

    assert (proof.strength is not None) is is_told
    assert proof.proved or damage != 1.0
    assert not (proof.proved and is_told and damage != 1.0)


def test_no_number_of_bits_makes_a_base_of_any_other() -> None:
    far = QUANTISATION * 2 / 3 + 0.1

    assert not hold(a_probe(quantised=True), (far, far, far), (far, far, far)).proved


@pytest.mark.parametrize(
    ("quantised", "shift", "is_proved"),
    [(False, 0.13, True), (False, 0.15, False), (True, 2.0, True), (True, 2.2, False)],
)
def test_a_whole_model_has_no_base_to_be_held_against(quantised: bool, shift: float, is_proved: bool) -> None:
    proof = hold(a_probe(base=None, quantised=quantised), (shift, -shift, shift))

    assert proof.proved is is_proved
    assert (proof.base_gap, proof.base_difference) == (None, None)


def test_nothing_stands_in_for_a_token_that_the_engine_does_not_name() -> None:
    seen = {7: -0.1, 8: -2.5, 100: -3.0}

    with pytest.raises(KeyError):
        compare(a_probe(base=None), [seen, seen], [])


@pytest.mark.parametrize(
    ("trained", "base", "has_diverged"),
    [
        (9.0, 11.5, False),
        (11.9, 11.5, False),  # a random base may be worse than guessing by itself
        (12.6, 11.5, True),
        (11.0, 3.0, False),
        (11.9, 3.0, True),
        (20.0, None, False),
        (23.0, None, True),
    ],
)
def test_a_training_has_diverged_that_is_worse_than_its_base_and_than_guessing(
    trained: float, base: float | None, has_diverged: bool
) -> None:
    fit = Fit(trained=trained, base=base, vocabulary=49_152)

    assert fit.has_diverged is has_diverged


@pytest.mark.parametrize(
    ("noise", "fit"),
    [(0.5, None), (0.0, Fit(trained=8.0, base=3.0, vocabulary=49_152))],
    ids=["its own readings differ", "it is worse than its base"],
)
def test_where_the_training_explains_it_the_training_is_named(noise: float, fit: Fit | None) -> None:
    probe = a_probe(noise=noise).model_copy(update={"fit": fit})

    right, wrong, rebased = (hold(probe, *shifts) for shifts in ((), ((1.0, 1.0, 1.0),), (STILL, (1.0, 1.0, 1.0))))

    assert right.proved
    assert (wrong.cause, rebased.cause) == (Unproved.TRAINING_DIVERGED, Unproved.BASE_DIFFERS)


def test_a_probe_of_an_older_version_is_read() -> None:
    probe = a_probe().model_dump(exclude={"fit": True, "variant": True, "prompts": {"__all__": {"question"}}})

    assert Probe.model_validate(probe) == a_probe()


@pytest.mark.parametrize(
    ("of_large", "of_small", "is_proved"), [(1.06, 1.0, True), (2.0, 2.0, False), (0.5, 0.5, False), (1.3, 1.3, False)]
)
def test_where_one_step_has_most_of_the_change_its_rounding_is_no_other_strength(
    of_large: float, of_small: float, is_proved: bool
) -> None:
    """Of an unlikely token the rounding is larger, as SmolLM2-135M showed after 12 steps."""
    large = ProbeStep(top=((7, -1.0),), base=(-10.0,))
    small = [ProbeStep(top=((7, -2.5 + 0.2 * (-1) ** number),), base=(-2.5,)) for number in range(40)]
    steps = ProbePrompt(ids=(1, 2), steps=(large, *small))
    probe = Probe(dtype="float32", quantised=False, noise=0.0, prompts=(steps,))
    base = [-10.0, *(-2.5 + 0.01 * (-1) ** (number // 2) for number in range(40))]
    changes = [9.0 * of_large, *(0.2 * (-1) ** number * of_small for number in range(40))]

    proof = compare(
        probe, [{7: b + change} for b, change in zip(base, changes, strict=True)], [{7: one} for one in base]
    )

    assert proof.proved is is_proved
    assert (proof.strength_limits is None) or proof.strength_limits[1] <= 1.25
