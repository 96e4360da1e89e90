"""Community IDs are those of the specification's own examples."""

import pytest

from deepidea.flows.identity import community_id

# From the baseline of the Community ID specification.
SPECIFIED = [
    ("128.232.110.120", 34855, "66.35.250.204", 80, "tcp", "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    ("192.168.1.52", 54585, "8.8.8.8", 53, "udp", "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    ("192.168.0.89", 8, "192.168.0.1", 0, "icmp", "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    ("fe80::200:86ff:fe05:80da", 135, "fe80::260:97ff:fe07:69ea", 0, "icmp6", "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
]


@pytest.mark.parametrize(("src_ip", "src_port", "dst_ip", "dst_port", "protocol", "expected"), SPECIFIED)
def test_specified_examples(src_ip, src_port, dst_ip, dst_port, protocol, expected):
    assert community_id(src_ip, src_port, dst_ip, dst_port, protocol) == expected


def test_both_directions_have_one_id():
    there, back = ("10.0.0.1", 40000, "10.0.0.2", 443), ("10.0.0.2", 443, "10.0.0.1", 40000)
    assert community_id(*there, "tcp") == community_id(*back, 6)


@pytest.mark.parametrize("address", ["", "10.0.0", "host.example"])
def test_no_address_no_id(address):
    assert community_id(address, 1, "10.0.0.2", 2, "tcp") is None
