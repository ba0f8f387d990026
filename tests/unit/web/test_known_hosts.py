"""Which requests are let in: a table of hosts, of origins and methods, and of addresses."""

from typing import Any

import pytest

from app.known_hosts import HostRules, check, is_loopback

RULES = HostRules.of("tunes.example, api", "https://ui.example", trusts_network=False)
LOCAL = ("127.0.0.1", 8000)


def code(*headers: tuple[str, str], method: str = "GET", server: Any = LOCAL, rules: HostRules = RULES) -> str | None:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    refused = check({"type": "http", "method": method, "server": server, "headers": raw}, rules)
    return refused.code if refused is not None else None


KNOWN = ["localhost", "localhost:8000", "LOCALHOST.:8000", "127.0.0.1:8000", "[::1]:8000", "tunes.example", "api:8000"]
EVIL = ["evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "@localhost@x"]
OTHERS = [*EVIL, "", ":8000", "[::1", "10.1.2.3"]


@pytest.mark.parametrize("host", [*KNOWN, *OTHERS])
def test_only_a_known_host_is_let_in(host: str) -> None:
    assert code(("host", host)) == ("unknown_host" if host in OTHERS else None)


@pytest.mark.parametrize("headers", [[], [("host", "localhost"), ("host", "localhost")]])
def test_one_host_is_named_once(headers: list[tuple[str, str]]) -> None:
    assert code(*headers) == "unknown_host"


@pytest.mark.parametrize("origin", ["http://localhost:8000", "https://localhost:8000", "https://ui.example", None])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_our_own_pages_and_those_that_are_listed_may_do_all(origin: str | None, method: str) -> None:
    headers = [("host", "localhost:8000"), *([("origin", origin)] if origin else [])]

    assert code(*headers, method=method) is None


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://localhost:3000", "file://", "http://[x", ""])
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
def test_a_page_of_another_origin_changes_nothing(origin: str, method: str) -> None:
    headers = [("host", "localhost:8000"), ("origin", origin)]

    assert code(*headers, method=method) == "foreign_origin"
    assert code(*headers, ("origin", "https://ui.example"), method=method) == "foreign_origin"


@pytest.mark.parametrize(("site", "found"), [("cross-site", "foreign_origin"), ("same-origin", None), ("none", None)])
def test_a_browser_that_says_cross_site_is_believed(site: str, found: str | None) -> None:
    assert code(("host", "localhost"), ("sec-fetch-site", site), method="POST") == found


@pytest.mark.parametrize(
    ("server", "trusts_network", "host", "found"),
    [
        (("10.0.0.5", 8000), False, "10.0.0.5:8000", "network_not_trusted"),
        (("10.0.0.5", 8000), True, "10.0.0.5:8000", None),
        (("10.0.0.5", 8000), True, "192.168.1.9:8000", None),
        (("10.0.0.5", 8000), True, "evil.example", "unknown_host"),
        (("/run/api.sock", None), False, "localhost", None),
        (None, False, "localhost", None),
    ],
)
def test_only_loopback_is_answered_until_the_network_is_trusted(
    server: Any, trusts_network: bool, host: str, found: str | None
) -> None:
    assert code(("host", host), server=server, rules=HostRules(trusts_network=trusts_network)) == found


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_what_loopback_is(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "h"])
def test_what_loopback_is_not(host: str) -> None:
    assert not is_loopback(host)
