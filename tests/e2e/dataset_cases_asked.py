"""Asks the service about cases, and reads its answers."""

from pathlib import Path
from typing import Any

import httpx

from tests.e2e.dataset_cases import Case
from tests.e2e.stack import Stack


def upload(service: Stack, case: Case) -> str:
    answer = send(service, case)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def send(service: Stack, case: Case) -> httpx.Response:
    return service.api.post("/files", files={"file": (case.filename, case.content)})


def trained(row: dict[str, Any]) -> list[str]:
    return [span["text"] for span in row["spans"] if span["trained"]]


def ids(row: dict[str, Any]) -> list[int]:
    return [token for span in row["spans"] for token in span["token_ids"]]


def places(error: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
    return [(found.get("record"), found.get("line"), found.get("field")) for found in error["details"]]


def files_with(text: bytes, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]
