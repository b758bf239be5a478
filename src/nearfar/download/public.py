"""Which addresses anybody on the Internet may reach."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

__all__ = ["is_public"]

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is given out (RFC 4291, 2.4): what lies outside is local, reserved, or a disguise."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 as seen from networks without it (RFC 6052); all of the Internet, there."""
SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # a public number, but on Azure the machine's own host answers
            "192.0.0.0/24",  # protocols' own; in it, Oracle's metadata
            "192.88.99.0/24",  # relays of 6to4
            "2001::/32",  # Teredo: holds an IPv4 address, reached through a tunnel
            "2002::/16",  # 6to4: the same
        ),
    )
)
"""Not public, whatever the tables of this Python's `ipaddress` say, which differ by version."""


@lru_cache(maxsize=4096)
def is_public(address: str) -> bool:
    """True for a unicast address that anybody on the Internet may reach; False for what is no address.

    What IPv6 only wraps is judged as the IPv4 address in it. Not known: the prefix that a network chose for
    its own NAT64, and public addresses behind which a network keeps something private.
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
