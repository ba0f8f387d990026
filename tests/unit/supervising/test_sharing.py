"""When a training and the engine share a GPU, and how much memory a training is believed to take."""

from pathlib import Path
from typing import Any

import pytest

from app.contracts.generation import EngineHealth
from app.contracts.plan import plan_of
from tests.support.gpus import pretend_gpu
from tests.support.shapes import LLAMA_3B
from tests.support.specs import PAGE, a_spec
from worker.hardware import Gpu, measure_gpu
from worker.supervising.gpu_sharing import Training, measured_bytes
from worker.supervising.predicting import predicted_bytes

GB = 10**9
IDLE: dict[str, Any] = {"device": "cuda:0", "loaded_base": None, "loaded_adapters": [], "waiting": 0, "is_busy": False}
EVALUATED = {"eval_fraction": 0.1}
AS_GIVEN = {"training": {"layout": "as_given"}}


@pytest.mark.parametrize(
    ("free", "engine", "base", "training", "fits"),
    [
        (80, 0, 6, 20, True),
        (80, 0, 6, 56, False),  # an engine that loads now takes a quarter of the rest
        (54, 25, 6, 50, True),  # it has done so already
        (54, 25, 6, 55, False),
        (16, 0, 6, 7, True),
        (16, 0, 6, 8, False),
        (5, 10, 6, 6, False),  # a larger base than this one is loaded
        (4, 0, 6, 1, False),
    ],
)
def test_both_have_to_fit_with_the_base_and_the_cache_of_the_engine(
    free: int, engine: int, base: int, training: int, fits: bool
) -> None:
    health = EngineHealth.model_validate({**IDLE, "memory_bytes": engine * GB})

    gpu = Gpu("GPU-1", free * GB)

    assert Training("job-1", "slot", training * GB, base * GB).fits_beside(health, gpu) is fits


@pytest.mark.parametrize(("training", "base"), [(None, GB), (GB, None), (None, None)])
def test_what_is_not_known_does_not_fit(training: int | None, base: int | None) -> None:
    engine = EngineHealth.model_validate(IDLE)

    assert not Training("job-1", "slot", training, base).fits_beside(engine, Gpu("GPU-1", 80 * GB))
    assert Training("job-1", "slot", training, base).fits_beside(engine, None)


def bytes_of(**groups: Any) -> float:
    body = {name: {**PAGE[name], **groups.get(name, {})} for name in ("model", "lora", "training", "dataset")}
    body["model"].update({} if "load_in_4bit" in groups.get("model", {}) else {"load_in_4bit": True})
    return predicted_bytes(plan_of(a_spec(**body)), LLAMA_3B, None) / GB


def test_the_page_s_own_training_is_a_few_gigabytes() -> None:
    assert 4 < bytes_of() < 16


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"model": {"load_in_4bit": False}}),
        ({"model": {"load_in_4bit": False}}, {"model": {"load_in_4bit": False, "dtype": "float32"}}),
        ({"model": {"load_in_4bit": False}}, {"model": {"load_in_4bit": False, "full_finetuning": True}}),
        ({}, {"model": {"max_seq_length": 8192}}),
        ({}, {"training": {"per_device_train_batch_size": 8}}),
        ({"dataset": EVALUATED}, {"dataset": EVALUATED, "training": {"per_device_eval_batch_size": 8}}),
        ({}, {"lora": {"r": 256}}),
        ({}, {"lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}}),
        (AS_GIVEN, {**AS_GIVEN, "lora": {"use_gradient_checkpointing": False}}),
    ],
)
def test_a_larger_training_is_believed_to_take_more(less: dict[str, Any], more: dict[str, Any]) -> None:
    assert bytes_of(**less) < bytes_of(**more)


def test_a_peak_that_was_measured_has_room_around_it() -> None:
    assert 10 * GB < measured_bytes(10 * GB) < 14 * GB


@pytest.mark.parametrize(("answer", "gpu"), [("GPU-1, 79000 MiB", Gpu("GPU-1", 79000 * 2**20)), ("", None)])
def test_the_free_memory_of_the_gpu_is_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, gpu: Gpu | None
) -> None:
    pretend_gpu(tmp_path, monkeypatch, answer)

    assert measure_gpu() == gpu
