"""Where the store is: what is no bucket, crosses a network in the clear or is half a key is refused, and named."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.config import Settings
from app.store.place import StorePlace, place_in

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
URL = {"TUNESMITH_STORE_URL": "s3://bucket/a/b"}


@pytest.mark.parametrize(
    "url",
    ["bucket", "http://bucket", "s3://", "s3://Bucket", "s3://key:secret@bucket", "s3://bucket/../x", "s3://b/a?x"],
)
def test_what_is_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="should be s3://bucket or s3://bucket/prefix") as refused:
        Settings(store_url=url)
    assert "secret" not in str(refused.value)


def test_an_endpoint_in_a_network_needs_tls_or_trust() -> None:
    for endpoint in ("minio:9000", "http://minio:9000", "https://u:p@minio:9000"):
        with pytest.raises(ValidationError, match="TUNESMITH_STORE_ENDPOINT"):
            Settings(store_url="s3://bucket", store_endpoint=endpoint)

    for endpoint in ("https://minio:9000", "http://127.0.0.1:9000"):
        assert Settings(store_url="s3://bucket", store_endpoint=endpoint).store_endpoint == endpoint
    assert Settings(store_url="s3://bucket", store_endpoint="http://minio:9000", trust_network=True).store is not None


def test_settings_and_engine_read_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (URL | KEYS).items():
        monkeypatch.setenv(name, value)

    expected = StorePlace("bucket", "a/b", key_id="id", secret_key="key")

    assert Settings().store == place_in(URL | KEYS, trusts_network=False) == expected
    assert "key" not in repr(expected).replace("secret_key", "").replace("key_id", "")


def test_a_key_may_be_in_a_file_and_half_a_pair_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("of a file\n")
    in_file = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY_FILE": str(tmp_path / "key")}
    found = place_in(URL | in_file, trusts_network=False)

    assert found is not None
    assert found.secret_key == "of a file"
    with pytest.raises(ValueError, match="one of them is set"):
        place_in({**URL, "AWS_ACCESS_KEY_ID": "id"}, trusts_network=False)


def test_without_a_url_there_is_no_store() -> None:
    assert Settings().store is None
    assert Settings(store_url="").store is None
    assert place_in(KEYS, trusts_network=False) is None
    assert Settings().files.entries is None
