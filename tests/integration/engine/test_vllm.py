"""What vLLM would do in silence, and this engine does not: each against a server that speaks its protocol."""

import shutil
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from app.contracts.generation import EngineError
from app.contracts.probe import PROBE
from app.contracts.variant import BaseVariant
from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.probes import probe_of
from tests.integration.engine.requests import PROMPT, a_request, events_of, last_of, refusal_of, tokens_of
from tests.integration.engine.test_engine_bundles import with_config, with_tensors
from tests.integration.engine.test_proving import scrambled
from tests.integration.engine.vllm_server import Server
from tests.integration.engine.vllms import engine_at, is_small
from worker.inference.engine import AdapterFolder, Ended, ModelFolder, Token, TokenEvent, TokenRequest
from worker.inference.vllm.engine import VllmEngine


@pytest.fixture
def served_model(proved_model: ServedModel) -> ServedModel:
    return proved_model


def test_many_who_ask_for_an_adapter_at_once_have_it_loaded_once(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: is_small(vllm_engine, served_model), range(8)))

    assert all(answers)
    assert vllm_server.loads == ["adapter-small@v1"]


def test_an_adapter_that_vllm_has_lost_is_loaded_and_proved_again(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    assert is_small(vllm_engine, served_model)
    vllm_server.loras.clear()
    before = len(vllm_server.asked)

    assert is_small(vllm_engine, served_model)
    assert vllm_server.loads == ["adapter-small@v1"] * 2
    assert any("logprob_token_ids" in body for body in vllm_server.asked[before:])


def test_an_adapter_that_vllm_does_not_keep_is_never_answered_by_the_base(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    vllm_server.forgets = True

    error = refusal_of(vllm_engine, a_request(served_model, "small"))

    assert (error.status, error.code) == (503, "engine_unavailable")


def test_a_server_that_checks_no_names_is_not_believed(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    vllm_server.forgets, vllm_server.checks_names = True, False

    events = events_of(vllm_engine, a_request(served_model, "small"))

    assert [event.kind for event in events if isinstance(event, EngineError)] == ["error"]
    assert not any(isinstance(event, Token) for event in events)


def test_an_adapter_that_vllm_takes_and_that_is_not_proved_is_taken_out(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel, tmp_path: Path
) -> None:
    bundle = a_copy(served_model, tmp_path)
    with_tensors(scrambled)(bundle.folder)

    error = refusal_of(vllm_engine, replace(a_request(served_model), adapter=bundle))

    assert (error.status, error.code, error.param) == (409, "adapter_rejected", "adapter")
    assert "in vLLM it is not what was trained" in error.message
    assert (vllm_server.loads, vllm_server.loras) == ([bundle.name], {})


def test_an_adapter_of_the_same_name_from_another_folder_is_not_used(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    vllm_server.loras["adapter-small@v1"] = str(served_model.adapters["wide"].folder)

    assert is_small(vllm_engine, served_model)
    assert vllm_server.loras["adapter-small@v1"] == str(served_model.adapters["small"].folder)


def test_an_adapter_without_a_probe_never_reaches_vllm(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    error = refusal_of(vllm_engine, a_request(served_model, "wild"))

    assert (error.status, error.code) == (409, "adapter_rejected")
    assert "probe.json is missing" in error.message
    assert vllm_server.loads == []


def test_an_adapter_of_another_strength_than_trained_never_reaches_vllm(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel, tmp_path: Path
) -> None:
    bundle = a_copy(served_model, tmp_path)
    probe = probe_of(served_model.base.folder, bundle.folder, knows_weights=True)
    (bundle.folder / PROBE).write_text(probe.model_dump_json())
    with_config(lora_alpha=9)(bundle.folder)

    error = refusal_of(vllm_engine, replace(a_request(served_model), adapter=bundle))

    assert (error.status, error.code) == (409, "adapter_rejected")
    assert "is scaled by 2.0 in the trainer, and by 2.25 here" in error.message
    assert vllm_server.loads == []


def test_what_vllm_does_not_load_is_refused_in_its_words(
    vllm_engine: VllmEngine, served_model: ServedModel, tmp_path: Path
) -> None:
    bundle = a_copy(served_model, tmp_path)
    with_config(bias="all")(bundle.folder)

    error = refusal_of(vllm_engine, replace(a_request(served_model), adapter=bundle))

    assert (error.status, error.code, error.param) == (422, "unsupported_by_engine", "adapter")
    assert "Adapter bias is not supported" in error.message


@pytest.mark.parametrize(("name", "part"), [("directed", "use_dora"), ("headed", "modules_to_save")])
def test_more_than_lora_is_refused_by_name(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel, tmp_path: Path, name: str, part: str
) -> None:
    bundle = a_copy(served_model, tmp_path, name)
    shutil.copy(served_model.adapters["small"].folder / PROBE, bundle.folder)

    error = refusal_of(vllm_engine, replace(a_request(served_model), adapter=bundle))

    assert (error.status, error.code) == (422, "unsupported_by_engine")
    assert part in error.message
    assert vllm_server.loads == []


def test_a_base_in_another_form_than_that_of_its_files_is_refused(
    vllm_engine: VllmEngine, served_model: ServedModel
) -> None:
    request = a_request(served_model, "small")
    other = replace(request.base, variant=BaseVariant(name="dequant-nf4"))

    error = refusal_of(vllm_engine, replace(request, base=other))

    assert (error.status, error.code, error.param) == (422, "unsupported_by_engine", "adapter")
    assert "dequant-nf4" in error.message


def test_a_checkpoint_cannot_be_proved_and_is_refused(vllm_engine: VllmEngine, served_model: ServedModel) -> None:
    checkpoint = replace(served_model.adapters["small"], is_checkpoint=True)

    assert refusal_of(vllm_engine, replace(a_request(served_model), adapter=checkpoint)).code == "unsupported_by_engine"


def test_another_base_is_refused_and_both_are_named(vllm_engine: VllmEngine, served_model: ServedModel) -> None:
    error = refusal_of(vllm_engine, a_request(served_model, base=served_model.other_base))

    assert (error.status, error.code, error.param) == (409, "base_not_served", "model")
    assert "'base-0'" in error.message
    assert "'base-1'" in error.message


def test_a_name_of_the_hub_is_no_folder_of_that_name(
    vllm_server: Server, served_model: ServedModel, vllm_url: str
) -> None:
    snapshot = ModelFolder("base-0", served_model.base.folder)

    with engine_at(vllm_url) as engine:
        assert isinstance(last_of(engine, a_request(served_model, base=snapshot)), Ended)
        named = ModelFolder("someone/base-0", served_model.other_base.folder)
        assert refusal_of(engine, a_request(served_model, base=named)).code == "base_not_served"


def test_a_whole_model_is_answered_by_the_vllm_that_serves_it(
    vllm_engine: VllmEngine, served_model: ServedModel
) -> None:
    trained = ModelFolder("adapter-x@v1", served_model.base.folder)

    assert tokens_of(vllm_engine, a_request(served_model, base=trained)) == reference(
        served_model.base, None, PROMPT, 12
    )


@pytest.mark.parametrize(
    ("temperature", "reason"),
    [
        (0.001, "temperature: found 0.001, it takes 0 or at least 0.01"),
        (3.0, "temperature must be in [0, 2]"),
    ],
)
def test_what_vllm_would_change_or_refuse_is_named(
    vllm_engine: VllmEngine, served_model: ServedModel, temperature: float, reason: str
) -> None:
    error = refusal_of(vllm_engine, a_request(served_model, temperature=temperature))

    assert (error.status, error.code, error.param) == (422, "unsupported_by_engine", "temperature")
    assert reason in error.message


def test_scores_that_are_no_numbers_are_an_error(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    request = a_request(served_model, "small")
    assert is_small(vllm_engine, served_model)
    vllm_server.engine = BrokenScores()  # type: ignore[assignment]

    assert refusal_of(vllm_engine, request).code == "model_not_finite"


class BrokenScores:
    """An engine whose model gives no numbers."""

    async def generate(self, _: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        yield EngineError(status=500, code="model_not_finite", message="no numbers")


def a_copy(served_model: ServedModel, folder: Path, name: str = "small") -> AdapterFolder:
    shutil.copytree(served_model.adapters[name].folder, folder / "bundle")
    return AdapterFolder("adapter-copy@v1", folder / "bundle")
