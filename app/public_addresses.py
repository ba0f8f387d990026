"""Which addresses belong to the public internet. What a user names is called only there, or where the operator allows.

An IPv6 address that leads to an IPv4 address (mapped, NAT64, 6to4) is judged by that one.
"""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What `is_global` says of these differs between versions of Python, or is true although no stranger may call them.
NEVER_PUBLIC: tuple[Network, ...] = (
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's host, with its metadata
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv4Network("100.64.0.0/10"),
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 of one's own network
    ipaddress.IPv6Network("2001::/23"),  # Teredo and others
    ipaddress.IPv6Network("2001:db8::/32"),
    ipaddress.IPv6Network("3fff::/20"),
    ipaddress.IPv6Network("5f00::/16"),
    ipaddress.IPv6Network("fec0::/10"),
)


def read_networks(text: str) -> list[Network]:
    """Return networks that are separated by commas. Raises ValueError."""
    networks = []
    for part in (part.strip() for part in text.split(",")):
        if part:
            try:
                networks.append(ipaddress.ip_network(part))
            except ValueError:
                raise ValueError(f"found {part!r}, expected networks such as 10.1.0.0/16 or 127.0.0.1") from None
    return networks


def read_address(text: str) -> Address:
    """Return the address, or the IPv4 address to which it leads. Raises ValueError for a text that is none."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def is_public(address: Address) -> bool:
    if any(address in network for network in NEVER_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_among(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
