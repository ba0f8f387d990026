"""A bundle that does not fit its base exactly is refused by name, and nothing of it stays."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.contracts.generation import AdapterRef, EngineEvent
from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, an_order, answers_of, error_of, tokens_of
from tests.support.serial_engine import SerialEngine

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
Tensors = dict[str, Any]


def with_tensors(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return damage


def with_config(**values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **values}))

    return damage


def with_file(name: str, text: str | None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text) if text is not None else (folder / name).unlink()

    return damage


def leading_out(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("secret")
    (folder / "notes.txt").symlink_to(secret)


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "wrong prefix": (
        with_tensors(lambda t: {key.replace("base_model.model.model.", "model."): t[key] for key in t}),
        "model.layers.0.self_attn.q_proj.lora_A.weight is not an adapter weight",
    ),
    "truncated": (
        with_tensors(lambda t: {key: t[key] for key in t if "layers.1" not in key}),
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight is missing",
    ),
    "wrong shape": (with_tensors(lambda t: {**t, KEY: t[KEY][:2].clone()}), f"{KEY} has the shape (2, 64)"),
    "not a number": (
        with_tensors(lambda t: {**t, KEY: t[KEY] * torch.nan}),
        f"{KEY} holds numbers that are not",
    ),
    "trained bias": (
        with_tensors(lambda t: {**t, KEY.replace("lora_A.weight", "bias"): torch.ones(64)}),
        "q_proj.bias is not an adapter weight",
    ),
    "another rank": (with_config(r=8), "has the shape (4, 64), the base needs (8, 64)"),
    "targets of another model": (with_config(target_modules=["c_attn"]), "c_attn"),
    "changes the base": (with_config(init_lora_weights="pissa"), "init_lora_weights 'pissa'"),
    "layers that are used twice": (with_config(layer_replication=[[0, 2], [0, 2]]), "layer_replication"),
    "no LoRA": (with_config(peft_type="IA3"), "peft_type is 'IA3'"),
    "no weights": (with_file(WEIGHTS, None), f"{WEIGHTS} is missing"),
    "broken weights": (with_file(WEIGHTS, "garbage"), f"{WEIGHTS} cannot be read"),
    "no config": (with_file(CONFIG, None), f"{CONFIG} is missing"),
    "broken config": (with_file(CONFIG, "{"), f"{CONFIG} is not valid JSON"),
    "a pickle": (with_file("pytorch_model.bin", ""), "pytorch_model.bin may be a pickle"),
    "a way out": (leading_out, "notes.txt leads out of its folder"),
    "no tokenizer": (without_tokenizer, "it has no tokenizer files"),
    "broken tokenizer": (with_file("tokenizer.json", "{"), "its tokenizer cannot be read"),
    "no folder": (shutil.rmtree, "its folder is missing"),
}


def ask(engine: SerialEngine, served_model: ServedModel, folder: Path, kind: str = "lora") -> list[EngineEvent]:
    ref = {"adapter_id": "adapter-x", "version": "v1", "path": str(folder), "kind": kind}
    return answers_of(engine, an_order(served_model, adapter=AdapterRef.model_validate(ref)))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_rejected(
    engine: SerialEngine, served_model: ServedModel, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(served_model.adapters["small"].folder, tmp_path / "bundle")
    break_it, reason = DAMAGES[damage]
    break_it(tmp_path / "bundle")

    error = error_of(ask(engine, served_model, tmp_path / "bundle"))

    assert (error.status, error.code, error.param) == (409, "adapter_rejected", "adapter")
    assert error.message.startswith("the adapter adapter-x@v1 was rejected: ")
    assert reason in error.message


@pytest.mark.parametrize("responder", ["base", "small", "headed"])
def test_a_rejected_bundle_leaves_nothing_behind(
    engine: SerialEngine, served_model: ServedModel, tmp_path: Path, responder: str
) -> None:
    shutil.copytree(served_model.adapters["headed"].folder, tmp_path / "bundle")
    DAMAGES["truncated"][0](tmp_path / "bundle")
    ask(engine, served_model, tmp_path / "bundle")

    assert tokens_of(engine, a_request(served_model, responder)) == reference(
        served_model.base, served_model.adapter(responder), PROMPT, 12
    )
    assert "adapter-x@v1" not in engine.health().loaded_adapters


def test_a_model_with_all_weights_trained_is_a_base_of_its_own(engine: SerialEngine, served_model: ServedModel) -> None:
    *_, last = ask(engine, served_model, served_model.other_base.folder, kind="full")

    assert last.kind == "finish"
    assert engine.health().loaded_base == "adapter-x@v1"


def test_a_whole_model_with_missing_weights_is_rejected(
    engine: SerialEngine, served_model: ServedModel, tmp_path: Path
) -> None:
    shutil.copytree(served_model.other_base.folder, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})

    error = error_of(ask(engine, served_model, tmp_path / "model", kind="full"))

    assert (error.status, error.code) == (409, "adapter_rejected")
    assert "missing weights, first model.layers.1.mlp.up_proj.weight" in error.message


def test_what_is_an_adapter_is_no_base(engine: SerialEngine, served_model: ServedModel) -> None:
    error = error_of(ask(engine, served_model, served_model.adapters["small"].folder, kind="full"))

    assert error.code == "adapter_rejected"
