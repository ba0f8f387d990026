"""The checker, as the worker starts it, against a server in the shape of the hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import (
    AttemptEvent,
    DataPrepared,
    Failed,
    Noticed,
    SourcesChecked,
    SpecPinned,
)
from app.contracts.order import BaseRef
from app.contracts.rows import EVAL_ROWS, TRAIN_ROWS
from app.contracts.spec import JobSpec
from tests.support.hub import SHA, Hub, running
from tests.support.prepared_rows import a_check, run
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model
from worker.checking.tokens import batches

CHAT = b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n'
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
NAMES = [f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkvo"]
NAMES += [f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
MODEL = {
    "config.json": b'{"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 600}',
    "model.safetensors.index.json": json.dumps({"weight_map": dict.fromkeys(NAMES, "model-1.safetensors")}).encode(),
    "model-1.safetensors": b"only the trainer downloads it",
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    tiny = build_tiny_model(tmp_path_factory.mktemp("tiny"))
    model = {**MODEL, **{name: (tiny / name).read_bytes() for name in TOKENIZER_FILES}}
    with running(Hub(tmp_path_factory.mktemp("hub"))) as served:
        served.add("models", "org/model", model)
        served.add("models", "org/base", {name: model[name] for name in model if name != "chat_template.jinja"})
        served.add("models", "org/odd", {**model, "generation_config.json": b'{"early_stopping": "sometimes"}'})
        served.add("models", "org/pickled", {"config.json": MODEL["config.json"], "pytorch_model.bin": b"x"})
        served.add("datasets", "org/chats", {"train.jsonl": CHAT * 3, "test.jsonl": CHAT})
        served.add("datasets", "org/scripted", {"scripted.py": b"raise SystemExit"})
        served.add("datasets", "org/no-yaml", {"README.md": b"---\n- [\n---\n", "a.jsonl": CHAT})
        yield served


def check(hub: Hub, folder: Path, *, max_hub_bytes: int = 10**9, **groups: Any) -> list[AttemptEvent]:
    """Run one check; the source is an upload of one chat where the groups name no other."""
    upload = folder / "upload.jsonl"
    upload.write_bytes(CHAT)
    spec = JobSpec.model_validate(a_body(**groups))
    is_file = hasattr(spec.dataset.source, "file")
    base = BaseRef(source=spec.model.model_name, is_local=False, revision=spec.model.revision)
    order = a_check(folder, spec, base, upload if is_file else None, max_hub_bytes=max_hub_bytes)
    return run(order, HF_ENDPOINT=hub.url, HF_HOME=str(folder / "hf"), HF_TOKEN="hf_CANARY")


def rows_in(path: Path) -> int:
    return sum(batch.num_rows for batch in batches(path))


def failure(events: list[AttemptEvent]) -> Failed:
    assert isinstance(events[-1], Failed), events
    return events[-1]


def test_a_model_of_the_hub_is_checked_and_its_revision_is_pinned(hub: Hub, tmp_path: Path) -> None:
    events = check(hub, tmp_path)

    assert isinstance(events[-1], SourcesChecked)
    assert SpecPinned(values={"model.revision": SHA}).values in [e.values for e in events if isinstance(e, SpecPinned)]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("org/gated-model", "gated"),
        ("org/private-model", "private_or_unknown"),
        ("org/no-model", "unknown_repository"),
    ],
)
def test_a_model_that_cannot_be_read_is_told_apart(hub: Hub, tmp_path: Path, name: str, code: str) -> None:
    failed = failure(check(hub, tmp_path, model={"model_name": name}))

    assert (failed.code, failed.param) == (code, "model.model_name")
    assert name in failed.message


def test_a_model_without_safetensors_is_refused_unread(hub: Hub, tmp_path: Path) -> None:
    failed = failure(check(hub, tmp_path, model={"model_name": "org/pickled"}))

    assert (failed.code, failed.blame.value, failed.param) == ("no_safetensors", "user_error", "model.model_name")
    assert "org/pickled has its weights in pytorch_model.bin only: only safetensors are read" in failed.message
    assert "save_pretrained" in (failed.hint or "")
    assert not list((tmp_path / "hf").rglob("pytorch_model.bin"))


def test_an_unknown_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    assert failure(check(hub, tmp_path, model={"revision": "nope"})).code == "unknown_revision"


def test_a_length_beyond_the_models_context_that_no_row_needs_has_no_effect(hub: Hub, tmp_path: Path) -> None:
    events = check(hub, tmp_path, model={"max_seq_length": 8192})

    assert [event.code for event in events if isinstance(event, Noticed)] == ["context_is_enough"]
    assert SpecPinned(values={"model.max_seq_length": 4096}).values in [
        e.values for e in events if isinstance(e, SpecPinned)
    ]


def test_modules_of_another_model_family_are_refused_with_those_there_are(hub: Hub, tmp_path: Path) -> None:
    failed = failure(check(hub, tmp_path, lora={"target_modules": ["query_key_value"]}))

    assert failed.param == "lora.target_modules.0"
    assert "query_key_value" in failed.message
    assert "q_proj" in (failed.hint or "")


def test_all_linear_is_replaced_by_the_modules_of_the_model(hub: Hub, tmp_path: Path) -> None:
    events = check(hub, tmp_path, lora={"target_modules": "all-linear", "rank_pattern": {"q_proj": 4}})

    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert {"lora.target_modules": names} in [event.values for event in events if isinstance(event, SpecPinned)]


def test_modules_of_one_file_of_weights_are_known_by_its_header(hub: Hub, tmp_path: Path) -> None:
    """Of the hub and of this machine, whose names are not looked at: a norm has one dimension."""
    tiny = build_tiny_model(tmp_path / "tiny")
    hub.add("models", "org/tiny", {path.name: path.read_bytes() for path in tiny.iterdir()})
    lora = {"target_modules": ["q_proj", "input_layernorm", "embed_tokens"]}

    failed = failure(check(hub, tmp_path, model={"model_name": "org/tiny"}, lora=lora))

    assert (failed.code, failed.param) == ("unknown_target_module", "lora.target_modules.1")
    assert "found input_layernorm, which is not a linear module" in failed.message
    assert failed.hint is not None
    assert failed.hint.endswith("down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj")


def test_a_generation_config_that_cannot_be_loaded_is_refused(hub: Hub, tmp_path: Path) -> None:
    failed = failure(check(hub, tmp_path, model={"model_name": "org/odd"}))

    assert (failed.code, failed.param) == ("invalid_generation_config", "model.model_name")
    assert "`early_stopping` must be" in failed.message


def test_chats_for_a_model_without_a_template_are_refused(hub: Hub, tmp_path: Path) -> None:
    failed = failure(check(hub, tmp_path, model={"model_name": "org/base"}))

    assert (failed.code, failed.param) == ("no_chat_template", "model.chat_template")


def test_a_template_named_in_the_spec_takes_the_place_of_a_missing_one(hub: Hub, tmp_path: Path) -> None:
    events = check(hub, tmp_path, model={"model_name": "org/base", "chat_template": "chatml"})

    assert isinstance(events[-1], SourcesChecked)


def test_a_dataset_of_the_hub_is_read_by_its_name_and_split(hub: Hub, tmp_path: Path) -> None:
    events = check(hub, tmp_path, dataset={"source": {"hub": "org/chats", "split": "train"}})

    assert isinstance(events[-1], SourcesChecked)
    assert rows_in(tmp_path / "data" / TRAIN_ROWS) == 3
    pinned = [event.values for event in events if isinstance(event, SpecPinned) and "dataset.source" in event.values]
    assert pinned[0]["dataset.source"]["revision"] == SHA


@pytest.mark.parametrize(
    ("split", "rows"), [("train[:2]", 2), ("train[40%:]", 2), ("train+test", 4), ("all", 4), ("test", 1)]
)
def test_splits_of_the_hub_are_cut_and_joined_as_load_dataset_does(
    hub: Hub, tmp_path: Path, split: str, rows: int
) -> None:
    check(hub, tmp_path, dataset={"source": {"hub": "org/chats", "split": split}})

    assert rows_in(tmp_path / "data" / TRAIN_ROWS) == rows


def test_a_dataset_that_is_larger_than_the_operators_limit_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    large = CHAT * 10_000
    hub.add("datasets", "org/large", {"train.jsonl": large})
    failed = failure(check(hub, tmp_path, max_hub_bytes=500_000, dataset={"source": {"hub": "org/large"}}))

    assert (failed.code, failed.param) == ("hub_dataset_too_large", "dataset.source")
    assert str(len(large)) in failed.message
    assert not list((tmp_path / "hf").rglob("train.jsonl"))


def test_files_of_another_format_than_most_are_named_also_where_the_rows_are_kept_already(
    hub: Hub, tmp_path: Path
) -> None:
    hub.add("datasets", "org/mixed", {"a.jsonl": CHAT, "b.jsonl": CHAT, "c.csv": b"prompt,completion\na,b\n"})

    for is_kept in (False, True):
        events = check(hub, tmp_path, dataset={"source": {"hub": "org/mixed"}})

        assert [e.report["prepared"]["from_cache"] for e in events if isinstance(e, DataPrepared)] == [is_kept]
        assert [e.requested for e in events if isinstance(e, Noticed) and e.code == "hub_files_left_out"] == [["c.csv"]]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ({"hub": "org/nothing"}, "unknown_repository"),
        ({"hub": "org/chats", "split": "validation"}, "unreadable_hub_dataset"),
        ({"hub": "org/chats", "split": "train[x:]"}, "unreadable_hub_dataset"),
        ({"hub": "org/chats", "subset": "fr"}, "unreadable_hub_dataset"),
        ({"hub": "org/scripted"}, "unreadable_hub_dataset"),
        ({"hub": "org/no-yaml"}, "unreadable_hub_dataset"),
    ],
)
def test_a_hub_dataset_that_cannot_be_read_is_the_users_to_mend(
    hub: Hub, tmp_path: Path, source: dict[str, str], code: str
) -> None:
    failed = failure(check(hub, tmp_path, dataset={"source": source}))

    assert (failed.code, failed.blame.value, failed.param) == (code, "user_error", "dataset.source")


def test_a_hub_that_is_away_is_no_fault_of_the_user(hub: Hub, tmp_path: Path) -> None:
    away = Hub(tmp_path)
    away.url = "http://127.0.0.1:9"

    assert failure(check(away, tmp_path)).blame.value == "system_error"


def test_a_share_of_the_rows_is_set_aside_for_evaluation(hub: Hub, tmp_path: Path) -> None:
    rows = [CHAT.replace(b'"a"', b'"%d"' % number) for number in range(3)]  # equal ones would stay on one side
    hub.add("datasets", "org/three", {"train.jsonl": b"".join(rows)})
    events = check(hub, tmp_path, dataset={"source": {"hub": "org/three"}, "eval_fraction": 0.4})
    counts = [rows_in(tmp_path / "data" / name) for name in (TRAIN_ROWS, EVAL_ROWS)]

    assert counts == [2, 1]
    assert any(isinstance(e, DataPrepared) and e.report["split"]["eval_rows"] == 1 for e in events)


def test_settings_without_an_effect_are_said_once_their_rows_are_counted(hub: Hub, tmp_path: Path) -> None:
    training = {"lr_scheduler_type": "constant", "warmup_steps": 3, "max_steps": 4, "eval_steps": 2}
    events = check(hub, tmp_path, dataset={"eval_fraction": 0.1}, training=training)

    said = [event.code for event in events if isinstance(event, Noticed)]
    assert said == ["warmup_unused", "no_evaluation_rows"]


def test_the_token_of_the_server_is_in_no_event_and_no_log(hub: Hub, tmp_path: Path) -> None:
    check(hub, tmp_path, model={"model_name": "org/gated-model"})

    assert "CANARY" not in (tmp_path / "events.jsonl").read_text()
