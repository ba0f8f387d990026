"""People who come through a proxy that knows them, such as oauth2-proxy or Authelia.

The proxy names the person and the groups in headers. They count only in requests from its address: anybody can send
headers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from app.access.caller import Grant, Identity
from app.access.permissions import Permission, with_included
from app.config import Settings
from app.errors import Unauthenticated
from app.known_hosts import split_list
from app.public_addresses import Network, read_networks
from app.scope import EVERY_PROJECT, Scope

EVERY = "*"
RULE = re.compile(r"(?P<group>[^=]+)=(?P<project>\*|[A-Za-z0-9][A-Za-z0-9._-]{0,63}):(?P<scopes>[a-z:+]+)")
LONGEST_NAME = 100
# The column of the audit holds as many characters. An IPv6 address may name an interface of any length.
LONGEST_ADDRESS = 64


@dataclass(frozen=True)
class TrustedProxies:
    """`grants`: of each group. The headers are in lower case."""

    networks: Sequence[Network] = ()
    user_header: str = "x-forwarded-user"
    groups_header: str = "x-forwarded-groups"
    grants: Mapping[str, Sequence[Grant]] | None = None

    @classmethod
    def of(cls, settings: Settings) -> "TrustedProxies":
        """Raises ValueError for a setting that cannot be read, with its name."""
        try:
            networks = read_networks(settings.trusted_proxies)
            grants = read_grants(settings.proxy_groups)
        except ValueError as error:
            raise ValueError(f"TUNESMITH_TRUSTED_PROXIES or TUNESMITH_PROXY_GROUPS: {error}") from error
        return cls(networks, settings.proxy_user_header.lower(), settings.proxy_groups_header.lower(), grants)

    def trusts(self, peer: str | None) -> bool:
        """Return whether the other end of a connection is one of the proxies."""
        if peer is None or not _is_address(peer):
            return False
        address = ip_address(peer)
        return any(address in network for network in self.networks)

    def identity(self, headers: Mapping[str, str]) -> Identity | None:
        """Return the person whom a proxy's request names, or None. Raises Unauthenticated for an unusable name."""
        name = headers.get(self.user_header, "").strip()
        if not name:
            return None
        if len(name) > LONGEST_NAME or not name.isprintable():
            message = f"{self.user_header}: expected a name of at most {LONGEST_NAME} printable characters"
            raise Unauthenticated(message, param=self.user_header, code="invalid_user")
        known = self.grants or {}
        groups = split_list(headers.get(self.groups_header, ""))
        return Identity(f"user:{name}", tuple(grant for group in groups for grant in known.get(group, ())))

    def client(self, headers: Mapping[str, str], peer: str | None) -> str | None:
        """Return the address of the client: behind proxies it is the last one that none of them has.

        A text that is no address was written by the client, so the last proxy before it is returned.
        """
        hops = split_list(headers.get("x-forwarded-for", "")) if self.trusts(peer) else []
        known = peer
        for hop in reversed(hops):
            if not _is_address(hop):
                break
            known = hop
            if not self.trusts(hop):
                break
        return known


def _is_address(text: str) -> bool:
    try:
        return len(text) <= LONGEST_ADDRESS and bool(ip_address(text))
    except ValueError:
        return False


def read_grants(text: str) -> dict[str, list[Grant]]:
    """Read rules such as `ml=team-a:read+jobs:write, admins=*:admin`. Raises ValueError for another form."""
    found: dict[str, list[Grant]] = {}
    for part in split_list(text):
        rule = RULE.fullmatch(part)
        if rule is None:
            raise ValueError(f"found {part!r}, expected GROUP=PROJECT:SCOPE+SCOPE, or * for every project")
        scope = EVERY_PROJECT if rule["project"] == EVERY else Scope(frozenset({rule["project"]}))
        found.setdefault(rule["group"], []).append(Grant(scope, read_permissions(rule["scopes"].split("+"))))
    return found


def read_permissions(names: Iterable[str]) -> frozenset[Permission]:
    """Return the permissions of these names, with those that they include. Raises ValueError for an unknown one."""
    try:
        return with_included(frozenset(Permission(name) for name in names))
    except ValueError:
        known = ", ".join(Permission)
        raise ValueError(f"found {'+'.join(names)}, expected some of {known}") from None
