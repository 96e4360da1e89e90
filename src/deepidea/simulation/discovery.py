"""Benign traffic by which hosts find each other: mDNS, SSDP, LLMNR, NetBIOS and DHCP, by multicast and broadcast."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from deepidea.simulation.conversations import CLIENT, SERVER, Conversation, Message, udp_conversation
from deepidea.simulation.draws import arrivals, lognormal, spawn
from deepidea.simulation.hosts import STACKS, Host
from deepidea.simulation.lab import BENIGN, Activity, Lab
from deepidea.simulation.payloads import dns_query, dns_response

_SEARCH = b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n'
_FOUND = b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nST: upnp:rootdevice\r\n\r\n"
_DHCP_BYTES = 300


def _group(address: str) -> Host:
    """Return a multicast group; its MAC address holds the low 23 bits of the address (RFC 1112, 6.4)."""
    ip = ipaddress.IPv4Address(address)
    mac = b"\x01\x00\x5e" + (int(ip) & 0x7FFFFF).to_bytes(3, "big")
    return Host(address, mac, ip, None, STACKS[0])


def _broadcast(address: ipaddress.IPv4Address) -> Host:
    return Host("broadcast", b"\xff" * 6, address, None, STACKS[0])


_MDNS, _LLMNR, _SSDP = (_group(address) for address in ("224.0.0.251", "224.0.0.252", "239.255.255.250"))


def _to_group(
    lab: Lab, src: Host, group: Host, port: int, script: Iterator[Message], at_s: float, rng: Random,
    *, ttl: int = 1, src_port: int | None = None,
) -> Conversation:  # fmt: skip
    route = replace(lab.route(src, group, rng, v6=False), ttl=ttl)
    return udp_conversation(at_s, route, port, script, label=BENIGN, rng=rng, src_port=src_port)


def service_names(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Hosts announce their services and ask for others, by mDNS (RFC 6762)."""

    def say(host: Host, rng: Random) -> Iterator[Message]:
        name = f"{host.name}.local"
        while True:
            pause_s = lognormal(rng, 60.0, 1.0, most=600.0)
            for _ in range(rng.choice((1, 2, 3))):
                asks = rng.random() < 0.6
                data = dns_query(0, name, "PTR") if asks else dns_response(0, name, "PTR", (rng.randbytes(40),))
                yield Message(CLIENT, data, pause_s)
                pause_s = 1.0

    for host in lab.inside:
        own = spawn(rng)
        if own.random() < 0.6 and host.router is None:
            script, at_s = say(host, own), own.uniform(0.0, 5.0)
            yield iter([(at_s, _to_group(lab, host, _MDNS, 5353, script, at_s, own, ttl=255, src_port=5353))])


def searches(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Programs search for devices by SSDP: four datagrams every two minutes, which devices answer."""

    def search(host: Host, rng: Random) -> Activity:
        at_s = rng.uniform(0.0, 120.0)
        while at_s < lab.duration_s:
            own = spawn(rng)
            route_rng, port = spawn(own), host.next_port(own)
            script = (Message(CLIENT, _SEARCH, 1.0 if at else 0.0) for at in range(4))
            yield at_s, _to_group(lab, host, _SSDP, 1900, script, at_s, route_rng, ttl=2, src_port=port)
            for device in lab.devices:
                answer, back = [Message(CLIENT, _FOUND)], lab.route(device, host, own, v6=False)
                talk = udp_conversation(at_s + 0.1, back, port, answer, label=BENIGN, rng=spawn(own), src_port=1900)
                yield at_s, talk
            at_s += 120.0

    for host in lab.clients:
        if rng.random() < 0.3:
            yield search(host, spawn(rng))


def local_names(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Windows hosts ask all others for a name that the resolver does not know: LLMNR, then NetBIOS."""
    everybody = _broadcast(lab.plan.site4.broadcast_address)

    def ask(host: Host, rng: Random) -> Activity:
        for at_s in arrivals(rng, 90.0 / lab.busy, lab.duration_s, sigma=1.5):
            own, data = spawn(rng), dns_query(rng.getrandbits(16), "fileserver", "A")
            script = (Message(CLIENT, data, 0.1 * at) for at in range(2))
            yield at_s, _to_group(lab, host, _LLMNR, 5355, script, at_s, own)
            if own.random() < 0.6:
                script = (Message(CLIENT, bytes(50), 0.75 if at else 0.3) for at in range(3))
                yield at_s, _to_group(lab, host, everybody, 137, script, at_s, own, ttl=128, src_port=137)

    for host in lab.clients:
        if host.stack.name.startswith("windows") and host.router is None:
            yield ask(host, spawn(rng))


def addresses(lab: Lab, rng: Random) -> Iterator[Activity]:
    """Hosts get and renew their address by DHCP (RFC 2131)."""
    everybody = _broadcast(ipaddress.IPv4Address("255.255.255.255"))

    def renew(host: Host, rng: Random) -> Activity:
        for at_s in arrivals(rng, 900.0, lab.duration_s):
            own = spawn(rng)
            if own.random() < 0.3:
                new = replace(host, ipv4=ipaddress.IPv4Address("0.0.0.0"), ipv6=None)
                script = (Message(CLIENT, bytes(_DHCP_BYTES), 0.5 * at) for at in range(2))
                yield at_s, _to_group(lab, new, everybody, 67, script, at_s, own, ttl=128, src_port=68)
            route = lab.route(host, lab.gateway, own, v6=False)
            script = iter([Message(CLIENT, bytes(_DHCP_BYTES), 1.0), Message(SERVER, bytes(_DHCP_BYTES), 0.002)])
            yield at_s, udp_conversation(at_s, route, 67, script, label=BENIGN, rng=spawn(own), src_port=68)

    for host in (*lab.clients, *lab.devices):
        if host.router is None:
            yield renew(host, spawn(rng))
