"""Which side of the site an address is on: inside its home networks, outside, or a group of hosts."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import polars as pl

from deepidea.errors import DataError

__all__ = ["GROUP", "INSIDE", "OUTSIDE", "PRIVATE_NETWORKS", "UNKNOWN", "HomeNetworks"]

OUTSIDE, INSIDE, GROUP, UNKNOWN = range(4)
"""Sides: outside, inside, a multicast or broadcast group, an address that is none."""

PRIVATE_NETWORKS = (
    ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "100.64.0.0/10")
    + ("fc00::/7", "fe80::/10", "::1/128")
)  # fmt: skip
"""Home networks unless a site names its own: private, link-local, loopback and shared addresses (RFC 1918, 3927, 4193,
4291, 6598)."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class HomeNetworks:
    """The networks that a site watches.

    Parameters
    ----------
    cidrs
        Networks in CIDR notation.

    Raises
    ------
    DataError
        One is not a network.

    Examples
    --------
    >>> home = HomeNetworks(("192.0.2.0/24",))
    >>> home.sides(pl.Series(["192.0.2.7", "10.0.0.1", "224.0.0.251", None])).to_list()
    [1, 0, 2, 3]
    """

    cidrs: Sequence[str] = PRIVATE_NETWORKS
    _networks: tuple[tuple[int, int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        networks = map(_network, self.cidrs)
        masked = tuple((one.version, int(one.network_address), int(one.netmask)) for one in networks)
        object.__setattr__(self, "_networks", masked)
        object.__setattr__(self, "side", lru_cache(maxsize=65_536)(self._side))

    def _side(self, address: str) -> int:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return UNKNOWN
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if found.is_multicast or address == "255.255.255.255":
            return GROUP
        number, version = int(found), found.version
        inside = any(version == of and number & mask == network for of, network, mask in self._networks)
        return INSIDE if inside else OUTSIDE

    def sides(self, addresses: pl.Series) -> pl.Series:
        """Return the side of each address, UInt8 ``(n,)``."""
        known = addresses.unique().drop_nulls().to_list()
        sides = pl.DataFrame(
            {"address": known, "side": [self.side(address) for address in known]},  # type: ignore[attr-defined]
            schema={"address": pl.String, "side": pl.UInt8},
        )
        joined = pl.DataFrame({"address": addresses}).join(sides, on="address", how="left", maintain_order="left")
        return joined["side"].fill_null(UNKNOWN)


def _network(cidr: str) -> Network:
    try:
        return ipaddress.ip_network(cidr.strip(), strict=False)
    except ValueError as error:
        raise DataError(f"{cidr!r} is not a network: {error}; write it as 192.0.2.0/24 or 2001:db8::/32") from error
