"""People whom a trusted proxy names: what their groups may do, and whose headers count."""

import pytest

from app.access.permissions import EVERY_PERMISSION, Permission
from app.access.proxies import TrustedProxies, read_grants
from app.errors import Forbidden, Unauthenticated
from app.public_addresses import read_networks
from app.scope import EVERY_PROJECT, Scope

GRANTS = "ml=team-a:read+jobs:write, admins=*:admin, ml=shared:read"
PROXIES = TrustedProxies(read_networks("10.0.0.0/24, ::1"), grants=read_grants(GRANTS))


def headers(groups: str, user: str = "jane") -> dict[str, str]:
    return {"x-forwarded-user": user, "x-forwarded-groups": groups}


@pytest.mark.parametrize(
    ("peer", "is_trusted"), [("10.0.0.7", True), ("::1", True), ("10.0.1.7", False), ("nonsense", False), (None, False)]
)
def test_only_the_addresses_of_proxies_are_trusted(peer: str | None, is_trusted: bool) -> None:
    assert PROXIES.trusts(peer) is is_trusted


def test_a_group_may_do_in_each_project_what_its_rule_says() -> None:
    jane = PROXIES.identity(headers("ml,unknown"))

    assert jane is not None
    assert jane.caller(Permission.READ).scope == Scope(frozenset({"team-a", "shared"}))
    assert jane.caller(Permission.WRITE_JOBS).scope == Scope(frozenset({"team-a"}))
    with pytest.raises(Forbidden, match="needs the scope generate; the scopes of user:jane are: jobs:write, read"):
        jane.caller(Permission.GENERATE)


def test_administrators_may_do_everything() -> None:
    admin = PROXIES.identity(headers("admins"))

    assert admin is not None
    assert {admin.caller(each).scope for each in EVERY_PERMISSION} == {EVERY_PROJECT}


def test_a_person_without_a_group_may_do_nothing() -> None:
    nobody = PROXIES.identity(headers(""))

    assert nobody is not None
    with pytest.raises(Forbidden):
        nobody.caller(Permission.READ)
    assert PROXIES.identity({}) is None


def test_an_unusable_name_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        PROXIES.identity(headers("ml", user="j" * 101))


@pytest.mark.parametrize(
    ("forwarded", "peer", "client"),
    [
        ("192.0.2.1", "10.0.0.7", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1, 10.0.0.8", "10.0.0.7", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.4", "198.51.100.4"),
        ("", "10.0.0.7", "10.0.0.7"),
        ("192.0.2.1, " + "x" * 65 + ", 10.0.0.8", "10.0.0.7", "10.0.0.8"),
        ("fe80::1%" + "x" * 65, "10.0.0.7", "10.0.0.7"),
        ("10.0.0.8, 10.0.0.9", "10.0.0.7", "10.0.0.8"),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_proxy(forwarded: str, peer: str, client: str) -> None:
    assert PROXIES.client({"x-forwarded-for": forwarded}, peer) == client


@pytest.mark.parametrize("text", ["ml", "ml=a", "ml=a:fly", "ml=a b:read", "=a:read"])
def test_a_rule_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="found"):
        read_grants(text)
