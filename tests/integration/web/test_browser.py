"""What a browser is told: pages load nothing from elsewhere, and no answer becomes a page, a frame or a script."""

import base64
import hashlib
import re

import pytest
from fastapi.testclient import TestClient


def test_the_page_of_the_api_loads_only_what_this_server_has(api: TestClient) -> None:
    page = api.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)

    assert len(loaded) == 3
    assert all(api.get(path).status_code == 200 for path in loaded)
    assert "://" not in page


def test_the_page_of_the_api_runs_no_script_but_its_own(api: TestClient) -> None:
    answer = api.get("/docs")
    policy = answer.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, flags=re.DOTALL)

    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
@pytest.mark.parametrize("path", ["/docs", "/jobs", "/jobs/job-none", "/healthz", "/openapi.json", "/nowhere"])
def test_every_answer_is_kept_from_frames_and_other_origins(api: TestClient, path: str, host: str) -> None:
    headers = api.get(path, headers={"host": host}).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_an_uploaded_page_does_not_run(api: TestClient) -> None:
    page = b'{"text": "<script>alert(1)</script>"}\n'
    made = api.post("/files", files={"file": ("page.html", page, "text/html")})

    headers = api.get(f"/files/{made.json()['id']}/content").headers

    assert "sandbox" in headers["content-security-policy"]
    assert not headers["content-type"].startswith("text/html")
