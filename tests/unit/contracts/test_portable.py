"""A base is named by its name in what is downloaded, wherever its folder on the server was named."""

import json

import pytest

from app.contracts.portable import PortableBase, is_text

TINY = PortableBase("/srv/models/tiny", "tiny")


@pytest.mark.parametrize(
    ("text", "renamed"),
    [
        ('{"base_model_name_or_path": "/srv/models/tiny"}', '{"base_model_name_or_path": "tiny"}'),
        ("base_model: /srv/models/tiny\n", "base_model: tiny\n"),
        ("- base_model:adapter:/srv/models/tiny\n", "- base_model:adapter:tiny\n"),
        ('"/srv/models/tiny/config.json"', '"tiny/config.json"'),
        ('"/srv/models/tiny-biased"', '"/srv/models/tiny-biased"'),
        ('"/mnt/srv/models/tiny"', '"/mnt/srv/models/tiny"'),
    ],
)  # fmt: skip
def test_the_folder_of_the_base_becomes_its_name(text: str, renamed: str) -> None:
    assert TINY.rename(text.encode()).decode() == renamed


@pytest.mark.parametrize("is_ascii", [True, False])
def test_a_path_that_json_escapes_is_found(is_ascii: bool) -> None:
    base = PortableBase('/srv/mö "del"', "a\\b")

    text = base.rename(json.dumps({"path": base.path}, ensure_ascii=is_ascii).encode())

    assert json.loads(text) == {"path": "a\\b"}


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{}", b'{"base_model": "org/m", "spec": {"model": {"model_name": "org/m"}}}', b"[" * 9999]
)
def test_a_bundle_that_names_no_folder_stays_as_it_is(manifest: bytes) -> None:
    assert PortableBase.of_manifest(manifest) is None


def test_weights_are_no_text_that_names_a_base() -> None:
    assert [is_text(*file) for file in (("README.md", 9), ("model.safetensors", 9), ("a.json", 2 << 20))] == [
        True,
        False,
        False,
    ]
