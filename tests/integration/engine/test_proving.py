"""An engine proves only a bundle with which it computes what the trainer recorded in it. Both kinds of engine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from app.contracts.probe import PROBE, Fit, Probe, Unproved
from app.contracts.rows import INPUT_IDS, LABELS
from tests.integration.engine.model_caches import ServedModel, build_tiny_adapter
from tests.integration.engine.probes import a_bundle, an_order, difference_of, probe_of, proof_of, reason_of
from tests.integration.engine.requests import a_request, tokens_of
from tests.integration.engine.test_engine_bundles import DAMAGES, WEIGHTS, Tensors, with_config, with_tensors
from tests.support.tiny_model import build_tiny_model
from worker.events import EventWriter
from worker.failures import UserError
from worker.inference.engine import Engine, Refusal
from worker.rendering.renderer import load_renderer
from worker.training.probe import Sample, notice_worse_than_base, probe_prompts, sample_rows


@pytest.mark.parametrize("name", ["small", "wide"])
def test_the_adapter_that_was_trained_is_proved(
    engine: Engine, served_model: ServedModel, tmp_path: Path, name: str
) -> None:
    proof = proof_of(engine, an_order(a_bundle(served_model, name, tmp_path / name), served_model.base.folder))

    assert difference_of(proof) < 1e-4
    assert proof.base_difference is not None
    assert proof.base_difference > 0.1
    assert (proof.reason, proof.tolerance, proof.tokens) == (None, 1e-4, 5 * 8 * 5)


def scrambled(tensors: Tensors) -> Tensors:
    return {key: value.flip(0) if "lora_A" in key else value for key, value in tensors.items()}


def zeroed(tensors: Tensors) -> Tensors:
    return {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in tensors.items()}


def one_layer_zeroed(tensors: Tensors) -> Tensors:
    return {key: value * ("layers.1" not in key or "lora_B" not in key) for key, value in tensors.items()}


def swapped(folder: Path) -> None:
    """The weights of another adapter of the same shapes."""
    generator = torch.Generator().manual_seed(9)
    tensors = load_file(folder / WEIGHTS)
    others = {key: torch.randn(value.shape, generator=generator) * value.std() for key, value in tensors.items()}
    save_file(others, folder / WEIGHTS)


def without_probe(folder: Path) -> None:
    (folder / PROBE).unlink()


def with_broken_probe(folder: Path) -> None:
    (folder / PROBE).write_text("{")


def with_foreign_tokens(folder: Path) -> None:
    probe = json.loads((folder / PROBE).read_text())
    probe["prompts"][0]["steps"][2]["top"][0][0] = 10**6
    (folder / PROBE).write_text(json.dumps(probe))


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "scrambled": (with_tensors(scrambled), "its log-probabilities are"),
    "swapped": (swapped, "its log-probabilities are"),
    "zeroed": (with_tensors(zeroed), "it changes nothing"),
    "one layer zeroed": (with_tensors(one_layer_zeroed), "its log-probabilities are"),
    "another alpha": (with_config(lora_alpha=16), "its log-probabilities are"),
    "rank-stabilised": (with_config(use_rslora=True), "its log-probabilities are"),
    "no probe": (without_probe, "probe.json is missing"),
    "broken probe": (with_broken_probe, "probe.json cannot be read"),
    "tokens of another model": (with_foreign_tokens, "the probe has token 1000000"),
    **{
        name: DAMAGES[name]
        for name in ("wrong prefix", "truncated", "not a number", "another rank", "broken tokenizer")
    },
}


@pytest.mark.parametrize("damage", WRONG)
def test_another_adapter_is_not_proved(engine: Engine, served_model: ServedModel, bundle: Path, damage: str) -> None:
    break_it, reason = WRONG[damage]
    break_it(bundle)

    proof = proof_of(engine, an_order(bundle, served_model.base.folder))

    assert reason in reason_of(proof)
    assert proof.cause is not None


def one_bit_turned(tensors: Tensors) -> Tensors:
    key = min(tensors)
    return {**tensors, key: tensors[key].nextafter(torch.tensor(9.0))}


def in_another_type(tensors: Tensors) -> Tensors:
    key = min(tensors)
    return {**tensors, key: tensors[key].half()}


def with_other_ids(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["W"], vocabulary["N"] = vocabulary["N"], vocabulary["W"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def with_another_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant", "model"))


NOT_THE_TRAINERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "one bit": (with_tensors(one_bit_turned), "its weights are not those that the trainer had"),
    "another type": (with_tensors(in_another_type), "its weights are not those that the trainer had"),
    "another alpha": (with_config(lora_alpha=9), "is scaled by 2.0 in the trainer, and by 2.25 here"),
    "rank-stabilised": (with_config(use_rslora=True), "is scaled by 2.0 in the trainer, and by 4.0 here"),
    "other tokenizer": (with_other_ids, "its tokenizer or its chat template is not the trainer's"),
    "other template": (with_another_template, "its tokenizer or its chat template is not the trainer's"),
}


@pytest.mark.parametrize("damage", NOT_THE_TRAINERS)
def test_a_bundle_that_differs_from_the_trainers_by_a_bit_is_not_proved(
    engine: Engine, served_model: ServedModel, tmp_path: Path, damage: str
) -> None:
    """This is found in its files, where no log-probability would show it."""
    bundle = a_bundle(served_model, "small", tmp_path / "right", knows_weights=True)
    break_it, reason = NOT_THE_TRAINERS[damage]
    break_it(Path(shutil.copytree(bundle, tmp_path / "wrong")))

    right, wrong = (
        proof_of(engine, an_order(tmp_path / name, served_model.base.folder)) for name in ("right", "wrong")
    )

    assert (right.proved, wrong.cause) == (True, Unproved.BUNDLE_DIFFERS), right
    assert reason in reason_of(wrong)


def test_a_bundle_that_was_changed_after_it_was_saved_is_not_proved(
    engine: Engine, served_model: ServedModel, bundle: Path
) -> None:
    order = an_order(bundle, served_model.base.folder)
    (bundle / "notes.txt").write_text("")

    proof = proof_of(engine, order)

    assert proof.cause is Unproved.BUNDLE_DIFFERS
    assert "its files have changed since it was saved" in reason_of(proof)


def test_tokens_that_the_base_finds_unlikely_are_compared_by_their_own_numbers(engine: Engine, tmp_path: Path) -> None:
    """Of so many tokens, three of four that a random adapter makes likely are not among the base's best thousand."""
    base = build_tiny_model(tmp_path / "base", vocabulary=4000, spread=0.1)
    bundle = build_tiny_adapter(tmp_path / "bundle", base, r=4, target_modules=["q_proj", "v_proj"])
    (bundle / PROBE).write_text(probe_of(base, bundle).model_dump_json())

    assert difference_of(proof_of(engine, an_order(bundle, base))) < 1e-4


def test_a_training_that_has_diverged_says_so_and_no_engine_is_asked(
    engine: Engine, bundle: Path, tmp_path: Path
) -> None:
    probe = Probe.model_validate_json((bundle / PROBE).read_bytes())
    diverged = probe.model_copy(update={"fit": Fit(trained=40.0, base=6.4, vocabulary=600)})
    (bundle / PROBE).write_text(diverged.model_dump_json())

    proof = proof_of(engine, an_order(bundle, tmp_path / "nowhere"))

    assert proof.cause is Unproved.TRAINING_DIVERGED


def test_a_model_that_training_has_made_worse_than_its_base_is_named(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.jsonl") as events:
        for trained in (3.5, 8.0):
            notice_worse_than_base(Fit(trained=trained, base=3.0, vocabulary=49_152), 0.5, events)

    (notice,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert "has a loss of 8, higher than its base's 3: a lower learning_rate usually helps" in notice


def test_on_another_base_it_is_not_proved(engine: Engine, served_model: ServedModel, bundle: Path) -> None:

    proof = proof_of(engine, an_order(bundle, served_model.other_base.folder))

    assert "the base has other weights" in reason_of(proof)


def test_an_adapter_that_overflows_is_not_proved(engine: Engine, served_model: ServedModel, bundle: Path) -> None:
    with_tensors(lambda tensors: {key: value * 1e36 for key, value in tensors.items()})(bundle)

    assert not proof_of(engine, an_order(bundle, served_model.base.folder)).proved


def test_bfloat16_in_the_trainer_is_within_what_the_bases_explain(
    engine: Engine, served_model: ServedModel, bundle: Path
) -> None:
    probe = probe_of(served_model.base.folder, bundle, dtype=torch.bfloat16)
    (bundle / PROBE).write_text(probe.model_dump_json())

    proof = proof_of(engine, an_order(bundle, served_model.base.folder))

    assert proof.proved, proof
    assert proof.difference is not None
    assert proof.difference > 1e-4


def test_a_whole_model_is_held_against_its_own_probe(engine: Engine, served_model: ServedModel, tmp_path: Path) -> None:
    for name, probed in (("right", served_model.other_base), ("wrong", served_model.base)):
        shutil.copytree(served_model.other_base.folder, tmp_path / name)
        (tmp_path / name / PROBE).write_text(probe_of(probed.folder, None).model_dump_json())

    right, wrong = (
        proof_of(engine, an_order(tmp_path / name, served_model.base.folder, kind="full"))
        for name in ("right", "wrong")
    )

    assert (right.proved, wrong.proved) == (True, False)
    assert right.base_gap is None


def test_a_base_that_is_not_there_says_nothing_of_the_adapter(engine: Engine, bundle: Path, tmp_path: Path) -> None:

    with pytest.raises(Refusal) as refused:
        proof_of(engine, an_order(bundle, tmp_path / "nowhere"))

    assert refused.value.error.code == "model_unavailable"


def test_an_engine_that_is_full_says_nothing_of_the_adapter(
    make_engine: Callable[..., Engine], served_model: ServedModel, bundle: Path
) -> None:
    engine = make_engine(places=1)

    with pytest.raises(Refusal) as refused:
        proof_of(engine, an_order(bundle, served_model.base.folder))

    assert refused.value.error.status == 429


def test_a_proof_leaves_the_answers_of_others_as_they_were(
    engine: Engine, served_model: ServedModel, tmp_path: Path
) -> None:
    bundle = a_bundle(served_model, "wide", tmp_path / "bundle")
    requests = [a_request(served_model, name) for name in ("base", "small")]
    before = [tokens_of(engine, request) for request in requests]

    proof_of(engine, an_order(bundle, served_model.base.folder))

    assert [tokens_of(engine, request) for request in requests] == before


def test_a_probe_has_five_short_prompts_and_knows_the_base(bundle: Path) -> None:

    probe = Probe.model_validate_json((bundle / PROBE).read_bytes())

    assert len(probe.prompts) == 5
    assert all(1 <= len(prompt.ids) <= 64 and len(prompt.steps) == 8 for prompt in probe.prompts)
    assert probe.has_base
    assert 0 < probe.noise < 1e-5, "float32 of another shape"


def test_a_model_that_is_not_finite_has_no_probe(served_model: ServedModel, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(served_model.adapters["small"].folder, bundle)
    with_tensors(lambda tensors: {key: value * torch.nan for key, value in tensors.items()})(bundle)

    with pytest.raises(UserError, match="logits are not finite") as refused:
        probe_of(served_model.base.folder, bundle)

    assert refused.value.failure.param == "training.learning_rate"


@pytest.mark.parametrize("max_tokens", [16, 20, 128])
def test_a_probe_fits_the_length_that_was_trained(served_model: ServedModel, max_tokens: int) -> None:
    samples = [Sample(list(range(64)), list(range(36)))]

    prompts = probe_prompts(load_renderer(served_model.base.folder), samples, max_tokens)

    assert [question is None for question, _ in prompts] == [False] * 4 + [True]
    assert all(1 <= len(ids) <= min(64, max_tokens - 8) for _, ids in prompts)


IDS = list(range(100))


@pytest.mark.parametrize(
    ("labels", "before", "taught"),
    [
        ([-100] * 80 + IDS[80:], (16, 80), (80, 100)),
        ([-100] * 20 + IDS[20:30] + [-100] * 70, (0, 20), (20, 30)),
        (IDS, (0, 50), (50, 100)),
        ([-100] * 100, (36, 100), (100, 100)),
    ],
    ids=["an answer", "an answer that is followed", "raw text", "nothing"],
)
def test_a_row_is_cut_where_it_was_first_taught(
    labels: list[int], before: tuple[int, int], taught: tuple[int, int]
) -> None:
    (sample,) = sample_rows(Dataset.from_dict({INPUT_IDS: [IDS], LABELS: [labels]}))

    assert sample == Sample(IDS[slice(*before)], IDS[slice(*taught)])
