"""Which addresses are public, that is, reachable from the whole Internet."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All allocated IPv6 (RFC 4291, 2.4): other addresses are local, reserved, or embed IPv4."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 as seen from IPv6-only networks (RFC 6052); it covers the whole IPv4 Internet."""
SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # a public number, but on Azure it is the host of the machine
            "192.0.0.0/24",  # reserved for protocols; Oracle's metadata service uses it
            "192.88.99.0/24",  # relays of 6to4
            "2001::/32",  # Teredo: holds an IPv4 address, reached through a tunnel
            "2002::/16",  # 6to4: the same
        ),
    )
)
"""Not public, regardless of `ipaddress`'s tables, which differ between versions of Python."""


@lru_cache(maxsize=4096)
def is_public(address: str) -> bool:
    """True for a public unicast address; False for a text that is no address.

    An IPv4 address embedded in IPv6 is judged as IPv4. Not detected: the prefix that a network chose for its
    own NAT64, and public addresses of private services.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        wrapped = found.ipv4_mapped
        if wrapped is None and found in NAT64:
            wrapped = ipaddress.IPv4Address(found.packed[-4:])
        if wrapped is not None:
            found = wrapped
        elif found not in GLOBAL_UNICAST:
            return False
    return found.is_global and not found.is_multicast and not any(found in special for special in SPECIAL)
