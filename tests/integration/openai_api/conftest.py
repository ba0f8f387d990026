"""OpenAI's own client, this service, and a real engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from app.config import Settings
from app.database.connection import Database
from app.database.migrate import upgrade
from app.main import create_app
from tests.integration.engine.model_caches import ADAPTERS, ServedModel, build_served_model
from tests.integration.engine.processes import KEY, EngineProcess
from tests.integration.openai_api.asking import BASE
from tests.support.scripted_engine import add_adapter
from tests.support.serving import serving


@pytest.fixture(scope="package")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return build_served_model(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="package")
def url(served_model: ServedModel, home: Path, engine_process: EngineProcess) -> Iterator[str]:
    models = served_model.base.folder.parent
    settings = Settings(home=home, models_dir=models, engine_url=engine_process.url, engine_key=KEY)
    upgrade(settings.database)
    with serving(create_app(settings)) as served:
        yield served


@pytest.fixture(scope="package")
def adapter(url: str, served_model: ServedModel, home: Path) -> str:
    """The id of the adapter "wide" of the base `base-0`."""
    database = Database.open(Settings(home=home).database)
    base: dict[str, Any] = {
        "base_model": BASE,
        "base_source": str(served_model.base.folder),
        "base_is_local": True,
        "base_revision": None,
    }
    row = add_adapter(
        database, home, path=str(served_model.adapters["wide"].folder), rank=ADAPTERS["wide"]["r"], **base
    )
    database.close()
    return row.id


@pytest.fixture(scope="package")
def client(url: str) -> Iterator[openai.OpenAI]:
    http = httpx2.Client(trust_env=False)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0, timeout=120) as made:
        yield made
