"""What the checker finds out about a base model in a folder: its revision, and whether its weights can be used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import AttemptEvent, Noticed, SourcesChecked, SpecPinned
from app.contracts.model_card import SINGLE, ModelCard
from app.contracts.order import BaseRef
from app.contracts.rows import BASE_CARD
from app.contracts.spec import JobSpec
from tests.support.prepared_rows import a_check, failure_of, run
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model
from worker.base_files import BaseFiles
from worker.model_card import count_numbers, read_card

CHAT = b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n'
OTHER = "sha256-" + "0" * 64


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def base(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "tiny")


def check(base: Path, folder: Path, *, pinned: str | None = None, origin: str | None = None, **groups: Any) -> Any:
    source = folder / "source.jsonl"
    source.write_bytes(CHAT)
    body = {**a_body(), **groups}
    body["model"] = {"model_name": "tiny", "max_seq_length": 128, **groups.get("model", {})}
    spec = JobSpec.model_validate(body)
    order = a_check(folder, spec, BaseRef(source=str(base), is_local=True, revision=pinned), source)
    return run(order.model_copy(update={"origin_revision": origin}))


def resolved(events: list[AttemptEvent]) -> dict[str, Any]:
    assert isinstance(events[-1], SourcesChecked), events
    return {name: value for event in events if isinstance(event, SpecPinned) for name, value in event.values.items()}


def test_the_revision_of_a_folder_is_pinned(base: Path, tmp_path: Path) -> None:
    assert resolved(check(base, tmp_path))["model.revision"] == BaseFiles().revision(base)


def test_what_is_known_of_the_base_is_kept_beside_the_rows(base: Path, tmp_path: Path) -> None:
    check(base, tmp_path)

    kept = ModelCard.model_validate_json((tmp_path / "data" / BASE_CARD).read_bytes())
    assert kept.model_copy(update={"parameters": None}) == read_card(base)
    assert not kept.is_tied
    assert kept.parameters == count_numbers(base)
    assert kept.weight_bytes == (base / SINGLE).stat().st_size


def test_another_revision_than_the_pinned_one_is_refused(base: Path, tmp_path: Path) -> None:
    failed = failure_of(check(base, tmp_path, pinned=OTHER))

    assert (failed.code, failed.blame.value, failed.param) == ("base_replaced", "user_error", "model.revision")


@pytest.mark.parametrize("origin", [{"adapter": "adapter-x"}, {"job": "job-" + "a" * 24}])
def test_nothing_goes_on_on_other_weights(base: Path, tmp_path: Path, origin: dict[str, str]) -> None:
    failed = failure_of(check(base, tmp_path, origin=OTHER, continue_from=origin))

    assert (failed.code, failed.param) == ("base_replaced", f"continue_from.{next(iter(origin))}")
    assert "was trained on other weights than tiny has now" in failed.message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tiny-q8.gguf"])
def test_a_folder_without_safetensors_is_refused_unread(base: Path, tmp_path: Path, name: str) -> None:
    (base / SINGLE).unlink()
    (base / name).write_bytes(b"not opened")
    (base / "training_args.bin").touch()

    failed = failure_of(check(base, tmp_path))

    assert (failed.code, failed.param) == ("no_safetensors", "model.model_name")
    assert f"has its weights in {name} only: only safetensors are read" in failed.message


def test_of_a_folder_with_both_the_safetensors_are_taken(base: Path, tmp_path: Path) -> None:
    (base / "pytorch_model.bin").write_bytes(b"not opened")

    assert resolved(check(base, tmp_path))["model.revision"] == BaseFiles().revision(base)


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_a_file_that_ends_too_early_is_named(base: Path, tmp_path: Path, size: int) -> None:
    with (base / SINGLE).open("r+b") as file:
        file.truncate(size)

    failed = failure_of(check(base, tmp_path))

    assert (failed.code, failed.param) == ("damaged_weights", "model.model_name")
    assert SINGLE in failed.message


def test_an_index_without_its_parts_is_named(base: Path, tmp_path: Path) -> None:
    (base / SINGLE).unlink()
    (base / f"{SINGLE}.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))

    assert failure_of(check(base, tmp_path)).code == "damaged_weights"


def with_config(base: Path, **values: Any) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **values}))


def test_rows_that_are_longer_than_the_context_are_trained_on_scaled_positions(base: Path, tmp_path: Path) -> None:
    with_config(base, max_position_embeddings=16)

    events = check(base, tmp_path)
    (notice,) = (event for event in events if isinstance(event, Noticed))

    assert resolved(events)["model.rope_scaled_to"] == 128
    assert (notice.code, notice.field) == ("context_extended", "model.max_seq_length")
    assert "training and serving scale its RoPE linearly by 8" in notice.message


LLAMA3 = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"rope_parameters": {"rope_theta": 1e4, "original_max_position_embeddings": 8, **LLAMA3}}, "llama3"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    ],
)
def test_rows_that_are_longer_than_a_context_which_cannot_be_scaled_are_refused(
    base: Path, tmp_path: Path, config: dict[str, Any], kind: str
) -> None:
    with_config(base, max_position_embeddings=16, **config)

    failed = failure_of(check(base, tmp_path))

    assert (failed.code, failed.blame.value) == ("context_not_scalable", "user_error")
    assert failed.param == "model.max_seq_length"
    assert "expected at most 16" in failed.message
    assert kind in failed.message
