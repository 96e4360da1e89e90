"""Address plans of simulated sites: private or public, IPv4 and IPv6, all from reserved ranges.

Hosts outside are in 198.18.0.0/15 (RFC 2544) and 2001:db8:0:1::/64 (RFC 3849); a site with public addresses is in one
of the networks for documentation (RFC 5737).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from random import Random

_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
_PUBLIC = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
_OUTSIDE4 = ipaddress.IPv4Network("198.18.0.0/15")
_OUTSIDE6 = ipaddress.IPv6Network("2001:db8:0:1::/64")
_SHARED = tuple(
    ipaddress.ip_network(text) for text in ("224.0.0.0/4", "255.255.255.255/32", "0.0.0.0/32", "ff00::/8", "fe80::/10")
)
"""Multicast, broadcast, hosts without an address yet, and link-local addresses: every site has them."""


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """The networks of a site.

    Examples
    --------
    >>> plan = draw_plan(Random(0))
    >>> plan.holds(str(plan.inside4(9))), plan.holds(str(outside4(9))), plan.holds("8.8.8.8")
    (True, True, False)
    """

    site4: ipaddress.IPv4Network
    site6: ipaddress.IPv6Network

    def inside4(self, number: int) -> ipaddress.IPv4Address:
        """Return the IPv4 address of a host of the site by its number, 1 to 254."""
        return self.site4.network_address + number

    def inside6(self, number: int) -> ipaddress.IPv6Address:
        """Return the IPv6 address of a host of the site by its number."""
        return self.site6.network_address + number

    @property
    def networks(self) -> tuple[str, str]:
        """The networks of the site."""
        return str(self.site4), str(self.site6)

    def holds(self, address: str) -> bool:
        """Return whether an address can be in a capture of this site."""
        ip = ipaddress.ip_address(address)
        return any(ip in network for network in (self.site4, self.site6, _OUTSIDE4, _OUTSIDE6, *_SHARED))


def draw_plan(rng: Random) -> AddressPlan:
    """Return the networks of a site: mostly private IPv4, IPv6 global or unique local (RFC 4193)."""
    private = rng.choices(_PRIVATE, (40, 25, 35))[0]
    block = ipaddress.IPv4Network(rng.choice(_PUBLIC) if rng.random() < 0.1 else private)
    site4 = ipaddress.IPv4Network((int(block.network_address) + (rng.randrange(1 << 24 - block.prefixlen) << 8), 24))
    documented = (0x20010DB8 << 96) + (rng.randrange(1, 1 << 16) << 80)
    local = (0xFD << 120) + (rng.getrandbits(40) << 80)
    site6 = ipaddress.IPv6Network((local if rng.random() < 0.3 else documented, 64))
    return AddressPlan(site4, site6)


def outside4(number: int) -> ipaddress.IPv4Address:
    """Return the IPv4 address of a host outside by its number below 2**17."""
    return _OUTSIDE4.network_address + number


def outside6(number: int) -> ipaddress.IPv6Address:
    """Return the IPv6 address of a host outside by its number."""
    return _OUTSIDE6.network_address + number
