"""Which URLs a webhook may have. Names are judged when something is sent."""

import pytest

from app.public_addresses import read_networks
from app.webhooks.urls import read_webhook_url

NONE = read_networks("")
TEN = read_networks("10.0.0.0/8")
GOOD = [
    "https://example.com/hook?a=b",
    "https://example.com:8443",
    "https://bücher.example/",
    "https://1.1.1.1/hook",
    "https://[2606:4700:4700::1111]/",
]
BAD = [
    *("http://example.com", "ftp://example.com", "example.com", "https://", "https:///hook", "//example.com", "https"),
    *("https://me:canary@example.com", "https://example.com/#canary", "https://exa mple.com", "https://a:b:c", ""),
    *("https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest"),
    "https://example.com/" + "a" * 2048,
]


@pytest.mark.parametrize("url", GOOD)
def test_a_url_of_the_internet_is_taken(url: str) -> None:
    assert read_webhook_url(url, NONE).host


@pytest.mark.parametrize("url", BAD)
def test_another_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^should ") as refusal:
        read_webhook_url(url, NONE)

    assert "canary" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize("url", ["http://10.1.2.3/", "https://10.1.2.3", "http://inner.example"])
def test_http_and_inner_hosts_are_for_networks_that_the_operator_allows(url: str) -> None:
    assert read_webhook_url(url, TEN).host


@pytest.mark.parametrize("url", ["http://1.1.1.1/", "http://192.168.1.1", "https://192.168.1.1"])
def test_a_network_that_is_allowed_opens_no_other(url: str) -> None:
    with pytest.raises(ValueError, match="public internet"):
        read_webhook_url(url, TEN)
