"""Single probes of ports, which monitors and attackers have in common."""

from __future__ import annotations

from random import Random

from deepidea.simulation.conversations import CLIENT, Conversation, Ending, Outcome, tcp_attempt, tcp_conversation
from deepidea.simulation.hosts import Host
from deepidea.simulation.lab import Lab


def probe_port(lab: Lab, src: Host, dst: Host, port: int, at_s: float, label: str, rng: Random) -> Conversation:
    """Connect to a port to test whether it is open, and close at once."""
    route = lab.route(src, dst, rng)
    if port not in dst.open_ports:
        silent = rng.random() < dst.silent
        retries = rng.randrange(2) if silent else 0
        outcome: Outcome = "silent" if silent else "closed"
        return tcp_attempt(at_s, route, port, outcome=outcome, label=label, rng=rng, retries=retries)
    ending = Ending(rng.choice(("fin", "rst")), CLIENT, 0.0005)
    return tcp_conversation(at_s, route, port, (), label=label, rng=rng, ending=ending)
